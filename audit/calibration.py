"""What the exam (``benchmarks/exam``) settled: the verdict's thresholds, and how often its verdicts are wrong.

The numbers are in ``calibration.json``, which ``python -m benchmarks.exam --calibrate`` writes. Thresholds are fitted
on training worlds alone; the error rates are counted on other worlds, with these thresholds. Imports no heavy library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

VERSION: Final = 1
"""Of what an audit reads and how it judges. Raised where either changes: ``tests/verdict/test_version.py`` sees it."""
FILE: Final = Path(str(resources.files("audit"))) / "calibration.json"


@dataclass(frozen=True)
class ErrorRate:
    """How often the exam's models of some kind got a verdict that is wrong for them.

    Attributes:
        verdict: that is given.
        reference: whether the audits had a reference.
        models: which models it is wrong for, in words that follow *of n models that*.
        wrong, of: counts.
        high: upper end of the exact 95 % interval of the share.
    """

    verdict: str
    reference: bool
    models: str
    wrong: int
    of: int
    high: float


@dataclass(frozen=True)
class Calibration:
    """The content of ``calibration.json``.

    Attributes:
        thresholds: name -> value.
        fitted: on how many models of which worlds.
        tested: the same for the error rates, and the ``VERSION`` of the audits that they were counted with.
    """

    thresholds: Mapping[str, float]
    fitted: Mapping[str, Any]
    tested: Mapping[str, Any]
    error_rates: Sequence[ErrorRate]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@cache
def calibration() -> Calibration:
    """The calibration that this installation judges by."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    rates = tuple(ErrorRate(**rate) for rate in document.pop("error_rates"))
    return Calibration(**document, error_rates=rates)


def error_rates(verdict: str, reference: bool) -> tuple[ErrorRate, ...]:
    """The rates of this verdict for audits with or without a reference; empty where the exam grades none."""
    return tuple(rate for rate in calibration().error_rates if rate.verdict == verdict and rate.reference == reference)
