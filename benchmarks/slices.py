"""How many deletions an exact system survives (S3T, arXiv 2406.16257): the closed form against simulated deletions.

Slices are deleted at random, the same ones again too, until no shard has anything to serve.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from audit.unlearning.slices import expected_deletions, rotations, served
from benchmarks.record import publish

SHARDS, SLICES = 5, 6
ORDERS: Final = (1, 3, 6)
DRAWS: Final = 1000


def main() -> None:
    publish("slices", [row(SHARDS, SLICES, orders, DRAWS) for orders in ORDERS], f"mean of {DRAWS} simulations")


def row(n_shards: int, n_slices: int, n_orders: int, draws: int) -> dict[str, Any]:
    """The mean of ``draws`` simulations beside the closed form."""
    simulated = [deletions(n_shards, n_slices, n_orders, Random(draw)) for draw in range(draws)]
    return {
        "shards": n_shards,
        "slices": n_slices,
        "orders": n_orders,
        "simulated": sum(simulated) / draws,
        "closed form": expected_deletions(n_shards, n_slices, n_orders),
    }


def deletions(n_shards: int, n_slices: int, n_orders: int, random: Random) -> int:
    """Deletions until nothing is served any more."""
    orders = rotations(n_slices, n_orders)
    deleted: list[set[int]] = [set() for _ in range(n_shards)]
    alive, done = set(range(n_shards)), 0
    while alive:
        shard = random.randrange(n_shards)
        deleted[shard].add(random.randrange(n_slices))
        done += 1
        if not served(orders, deleted[shard]):
            alive.discard(shard)
    return done


if __name__ == "__main__":
    main()
