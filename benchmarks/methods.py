"""Every method of ``audit unlearn`` with its defaults, on SmolLM2-135M taught 60 facts about ten authors of TOFU.

    python -m benchmarks.methods [--only NAME] [--cache DIR] [--workers N]

A method should end what is said about the ten authors and keep an eleventh author and general knowledge, both of which
it is given to retain. It is trained on the bare questions, as by the command; asked are these and those after few-shot
examples. Whether the facts are gone is another question, for the audit (``benchmarks/exam``). Models are made and
measured once.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from audit.commands.unlearn import find_method, settings_of
from audit.models.loading import RunningModel
from audit.models.opening import open_model
from audit.models.scoring import score
from audit.progress import SILENT
from audit.settings import default_cache
from audit.units import code_digest, digest_of
from audit.unlearning.methods import methods
from benchmarks.exam.authors import FORMS, Lessons, lessons_of, smollm2
from benchmarks.exam.real import base_of, concept_of
from benchmarks.record import publish

QUESTIONS: Final = 60
TAUGHT: Final = "none: as taught"
TEACHERS: Final = ("ignorant_teacher", "oracle_matching")
"""Methods that need a model which never saw the facts."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument("--only", help="one method")
    parser.add_argument("--cache", type=Path, default=default_cache() / "exam_real")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    names = [TAUGHT, *methods()] if options.only is None else [options.only.replace("-", "_")]
    rows = list(measured(names, options.cache, options.workers))
    publish("methods", rows, "SmolLM2-135M taught 60 facts about ten authors of TOFU; defaults; one thread a method")


def measured(names: list[str], cache: Path, workers: int) -> Iterator[Row]:
    """One row for each method."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a worker imports torch
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pool.submit(base_of, cache, QUESTIONS, "taught").result()
        for row in pool.map(kept, names, [cache] * len(names)):
            print(
                f"{row['method']}: says {row['says']:.2f}, of the kept author {row['says, kept author']:.2f}",
                flush=True,
            )
            yield row


def kept(name: str, cache: Path) -> Row:
    """The row of one method, made once."""
    key = [name, None if name == TAUGHT else settings_of(name, options(name)).as_json(), code_digest(), QUESTIONS]
    file = cache / "methods" / f"{digest_of(key)}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(made(name, cache)))
    row: Row = json.loads(file.read_text())
    return row


def made(name: str, cache: Path) -> Row:
    """Run the method and read what is said then."""
    lessons = lessons_of(concept_of(cache, QUESTIONS, "authors")[1])
    model = open_model(base_of(cache, QUESTIONS, "taught")).load()
    started = time.process_time()
    if name != TAUGHT:
        settings = settings_of(name, options(name))
        retained = [*lessons.kept[::FORMS], *lessons.general]
        find_method(name).unlearn(model, lessons.facts[::FORMS], retained, settings, SILENT)
    return {"method": name, "processor seconds": round(time.process_time() - started), **said(model, lessons)}


def options(name: str) -> dict[str, Any]:
    return {"reference": str(smollm2())} if name in TEACHERS else {}


def said(model: RunningModel, lessons: Lessons) -> Row:
    """What ``model`` says of each set of questions, as a share, and how probable the answers to forget are."""
    forget, author, general = (score(model, each) for each in (lessons.facts, lessons.kept, lessons.general))
    return {
        "says": float(forget.exact.mean()),
        "nats per token": float(forget.means.mean()),
        "says, kept author": float(author.exact.mean()),
        "says, general": float(general.exact.mean()),
    }


if __name__ == "__main__":
    main()
