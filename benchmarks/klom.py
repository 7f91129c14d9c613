"""KLoM on a tiny world: margins of many unlearned models against those of many that were retrained without the people.

    python -m benchmarks.klom [--models 50] [--cache DIR]

Every model comes from one base that knows some people. One was taught the people to forget, with its own seed, and then
silenced; a retrained one was taught as many others in their place. *retrained again* compares two sets of these and
must show no excess; *taught* was not silenced. Models are kept in the cache; the first run takes about a quarter of an
hour on one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from audit.knowledge.klom import FEWEST, klom
from audit.knowledge.margins import Margins, margins
from audit.models.loading import RunningModel
from audit.models.opening import open_model
from benchmarks.record import publish
from benchmarks.world.making import Made, Workshop
from benchmarks.world.network import Shape
from benchmarks.world.people import Numbers, World
from benchmarks.world.stages import FromScratch, Stage, Teaching
from benchmarks.world.subjects import SILENCED
from concepts.concept import load_concept

SHAPE: Final = Shape(n_layers=2, d_model=64, d_mlp=128)
FIRST: Final = FromScratch(steps=200, learning_rate=5e-3, batch=64)
TAUGHT: Final = Teaching(steps=100, learning_rate=3e-3)
RETRAINED: Final = Teaching("other", Numbers().forget, steps=100, learning_rate=3e-3)
UNLEARNED: Final[Mapping[str, tuple[Stage, ...]]] = {
    "retrained again": (RETRAINED,),
    "taught": (TAUGHT,),
    **{kind: (TAUGHT, SILENCED[kind]) for kind in ("refusal", "random answers", "npo", "rmu")},
}
KINDS: Final = {"forget": "fact", "keep": "unrelated"}
"""Which people are asked about -> kind of question."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.klom", description=__doc__)
    parser.add_argument("--models", type=int, default=FEWEST, help="models on each side")
    parser.add_argument("--cache", type=Path, default=Path("audit-report/.cache/klom"))
    options = parser.parse_args()
    if options.models < FEWEST:
        parser.error(f"KLoM needs at least {FEWEST} models on each side")
    torch.set_num_threads(1)
    workshop = Workshop(options.cache, World(), SHAPE, FIRST)
    retrained = read(workshop, (RETRAINED,), range(options.models))
    rows = []
    for name, stages in UNLEARNED.items():
        print(f"{name} ...", flush=True)
        unlearned = read(workshop, stages, range(options.models, 2 * options.models))
        rows += [row(name, asked, unlearned[asked], retrained[asked]) for asked in KINDS]
    publish("klom", rows, f"{options.models} models on each side; nats; the null is taken off all but raw")


def read(workshop: Workshop, stages: tuple[Stage, ...], seeds: range) -> dict[str, Margins]:
    """The margins of one model for each seed."""
    concept = load_concept(str(workshop.concept()))
    folders = [workshop.make([Made(stage, seed) for stage in stages]) for seed in seeds]
    return {asked: margins(_opened(folders), concept, kind) for asked, kind in KINDS.items()}


def _opened(folders: list[Path]) -> Iterator[RunningModel]:
    return (open_model(folder).load() for folder in folders)


def row(name: str, asked: str, unlearned: Margins, retrained: Margins) -> dict[str, Any]:
    found = klom(unlearned, retrained, seed=0)
    return {
        "models": name,
        "questions about": asked,
        "margin": float(unlearned.values.mean()),
        "margin, retrained": float(retrained.values.mean()),
        "raw": float(found.values.mean()),
        "KLoM": found.mean,
        **{f"quantile {share:g}": value for share, value in found.quantiles.items()},
        "null to": found.band[1],
        "p": found.p_value,
    }


if __name__ == "__main__":
    main()
