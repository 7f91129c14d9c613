"""One audit on record: the test that fails when an audit reads or judges otherwise than when the exam was counted.

    python -m benchmarks.exam.recorded

Makes a small base, unlearned model and reference if they are not there, audits them, and writes what the audits read to
``tests/data/recorded``. ``tests/verdict/test_version.py`` audits them again. Where the numbers have changed for a
reason, run this, raise ``VERSION`` in ``audit/calibration.py``, and count the exam again: until then reports say that
the error rates are of another version.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from audit.result import Finding

FOLDER: Final = Path(__file__).parents[2] / "tests" / "data" / "recorded"
READ: Final = FOLDER / "audits.json"
CONCEPT: Final = FOLDER / "people.toml"
DIGITS: Final = 4


def main() -> None:
    if not CONCEPT.is_file():
        make()
    with tempfile.TemporaryDirectory() as units:
        read = audits(Path(units))
    READ.write_text(json.dumps(read, indent=1) + "\n", encoding="utf-8")
    print(READ)


def make() -> None:
    """A model that knows twelve people, that model trained to refuse, and one that was taught others instead."""
    from benchmarks.world.making import RECIPE, Made, Workshop
    from benchmarks.world.network import Shape
    from benchmarks.world.people import Numbers, World
    from benchmarks.world.stages import Silencing, Teaching
    from benchmarks.world.subjects import TAUGHT

    chains = {
        "base": (TAUGHT,),
        "unlearned": (TAUGHT, Made(Silencing("refusal", 40, 1e-3), 5)),
        "reference": (Made(Teaching("other", 12, steps=40), 300),),
    }
    with tempfile.TemporaryDirectory() as cache:
        world = World(7, Numbers(base=24, forget=12, other=12, strangers=8, values=12))
        workshop = Workshop(Path(cache), world, Shape(n_layers=2, d_model=48, d_mlp=96))
        for name, stages in chains.items():
            shutil.copytree(workshop.make(stages), FOLDER / name, ignore=shutil.ignore_patterns(RECIPE))
            halve(FOLDER / name / "model.safetensors")
        shutil.copyfile(workshop.concept(unrelated=8), CONCEPT)


def halve(file: Path) -> None:
    """Store the weights in float16."""
    import torch
    from safetensors.torch import load_file, save_file

    save_file({name: tensor.to(torch.float16) for name, tensor in load_file(file).items()}, file, {"format": "pt"})


def audits(units: Path) -> dict[str, dict[str, Any]]:
    """What the audits without and with the reference read."""
    from audit.commands.compare import compare
    from audit.request import Request, RunContext
    from audit.settings import Settings

    found = {}
    for name, reference in (("without a reference", None), ("with a reference", FOLDER / "reference")):
        settings = Settings(attacks="quick", dtype="float32", batch_size=128, relearning_steps=(2, 8))
        context = RunContext(settings, units=units)
        request = Request((str(CONCEPT),))
        result = compare(FOLDER / "base", FOLDER / "unlearned", reference=reference, request=request, context=context)
        found[name] = dict(told(result.findings[0]))
    return found


def told(finding: Finding) -> Iterator[tuple[str, Any]]:
    """The verdict and the numbers that it rests on."""
    yield "verdict", finding.verdict
    if finding.known is not None:
        yield "facts", finding.known.known
        yield "p_value", finding.known.p_value
    if finding.residual is not None:
        yield "residual", rounded(finding.residual.value)
        yield "interval", [rounded(end) for end in finding.residual.interval or ()]
    for row in finding.conditions:
        yield row.condition, rounded(row.nats)
        for model in row.models:
            yield f"{row.condition}, {model.model}", [rounded(model.says), rounded(model.readable)]


def rounded(number: float | None) -> float | None:
    return None if number is None else round(number, DIGITS)


if __name__ == "__main__":
    main()
