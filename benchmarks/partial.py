"""The partial-identification curve on a tiny world: a share of each person's facts is unlearned, the rest is read too.

    python -m benchmarks.partial [--seeds 3] [--cache DIR]

The base was taught the people to forget, four facts each. Which of them are listed changes with the seed; the numbers
are means over seeds: the share of the facts that is said, and the centred score of the true answers in nats. *Others
say* is the share of other people's facts that is said: where it falls, the network is damaged and nothing was removed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from audit.attacks.relearning import fact_examples
from audit.commands.unlearn import find_method, settings_of
from audit.models.loading import RunningModel
from audit.models.opening import open_model
from audit.models.packing import Example
from audit.models.scoring import SHORT_PROMPTS, score
from audit.unlearning.partial import SHARES, Point, partial_curve, usable_facts
from benchmarks.record import publish
from benchmarks.world.making import Workshop
from benchmarks.world.people import questions
from benchmarks.world.subjects import TAUGHT
from concepts.concept import Concept, load_concept

METHODS: Final[Mapping[str, Mapping[str, Any]]] = {
    "npo": {"steps": 60, "learning_rate": 1e-3},
    "grad-diff": {"steps": 25, "learning_rate": 7e-4},
    "idk": {"steps": 40, "learning_rate": 1e-3},
    "random-answers": {"steps": 60, "learning_rate": 1e-3},
    "rmu": {"steps": 60},
    "ssd": {},
}
"""Method -> what differs from its defaults, which are for larger networks."""
RETAINED: Final = 30
"""Other people whose facts the methods may keep; as many others are asked."""


@dataclass(frozen=True)
class Setting:
    """The base, the concept of the people to forget, and two sets of questions about others."""

    base: RunningModel
    concept: Concept
    retain: Sequence[Example]
    others: Sequence[Example]

    @classmethod
    def made(cls, cache: Path) -> Setting:
        workshop = Workshop(cache)
        people = workshop.world.people["base"]
        retain, others = (
            [Example(row.prompt, row.answer) for row in questions(workshop.world.of(chosen))]
            for chosen in (people[:RETAINED], people[RETAINED : 2 * RETAINED])
        )
        base = open_model(workshop.make((TAUGHT,))).load()
        return cls(base, load_concept(str(workshop.concept())), retain, others)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.partial", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="choices of the listed facts")
    parser.add_argument("--cache", type=Path, default=Path("audit-report/.cache/partial"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting.made(options.cache)
    rows = [row for name in METHODS for row in curve(setting, name, options.seeds)]
    usable = usable_facts(setting.concept)
    left_out = f"{usable.entailed} that tell another one and {usable.alone} that are alone left out"
    publish("partial", rows, f"{len(usable.facts)} facts ({left_out}), {options.seeds} choices of the listed ones")


def curve(setting: Setting, name: str, seeds: int) -> Iterator[dict[str, Any]]:
    """One row for each share."""
    print(f"{name} ...", flush=True)
    found: dict[float, list[dict[str, float | None]]] = {share: [] for share in SHARES}
    for seed in range(seeds):
        settings = settings_of(name, METHODS[name], seed)
        points = partial_curve(
            setting.base,
            setting.concept,
            find_method(name),
            settings,
            lambda facts: fact_examples(facts, setting.concept),
            setting.retain,
        )
        for point in points:
            others = float(score(setting.base, setting.others, SHORT_PROMPTS).exact.mean())
            found[point.share].append({**numbers(point), "others say": others})
    for share, each in found.items():
        yield {"method": name, "listed": share} | {column: _mean(each, column) for column in each[0]}


def numbers(point: Point) -> dict[str, float | None]:
    return {
        f"{which} {name}": float(values[chosen].mean()) if chosen.any() else None
        for name, values in (("say", point.says), ("nats", point.nats))
        for which, chosen in (("listed", point.listed), ("unlisted", ~point.listed))
    }


def _mean(rows: Sequence[Mapping[str, float | None]], column: str) -> float | None:
    values = [value for row in rows if (value := row[column]) is not None]
    return float(np.mean(values)) if values else None


if __name__ == "__main__":
    main()
