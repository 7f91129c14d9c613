"""The exam's figures, drawn from ``results/exam_models.json``.

    python -m benchmarks.exam.figures

The residual of every model by pool, the ROC of hidden against removed, and the residual against the share taught.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.exam.grades import auc
from benchmarks.exam.tables import HIDES, NEVER, metrics, score
from benchmarks.record import RESULTS
from reports.paper_figures import SETTINGS

IMAGES: Final = Path(__file__).resolve().parents[2] / "docs" / "images"
COLOURS: Final[Mapping[str, str]] = {
    "present": "#4269d0",
    "hidden": "#d1495b",
    "removed": "#3a8f5c",
    "inconclusive": "#8a8a8a",
    "destroyed": "#9a6bb5",
}
"""Of verdicts."""
POOLS: Final = ("present", "changed", "hidden", "imprinted", "dose", "destroyed", "removed", "never")
CURVES: Final = 6
"""Metrics whose ROC is drawn: the audit, and those with the largest areas."""


def main() -> None:
    rows = json.loads((RESULTS / "exam_models.json").read_text(encoding="utf-8"))["rows"]
    for name, draw in FIGURES.items():
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        with rc_context(SETTINGS):
            draw(figure.add_subplot(), rows)
            figure.savefig(IMAGES / f"exam_{name}.svg", metadata={"Date": None})
        print(IMAGES / f"exam_{name}.svg")


def by_pool(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Each model's residual, coloured by the verdict on it."""
    pools = [pool for pool in POOLS if any(row["pool"] == pool for row in rows)]
    random = np.random.default_rng(0)
    for verdict, colour in COLOURS.items():
        own = [
            row for row in rows if row["verdict"] == verdict and row["pool"] in pools and row["residual"] is not None
        ]
        heights = [pools.index(row["pool"]) + random.uniform(-0.3, 0.3) for row in own]
        axes.scatter([row["residual"] for row in own], heights, s=9, color=colour, alpha=0.7, lw=0, label=verdict)
    axes.set_yticks(range(len(pools)), pools)
    axes.invert_yaxis()
    axes.set_xlabel("residual where most shows (0: a model that never knew, 1: the base)")
    axes.legend(title="verdict", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def roc(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Share of the hiding models above every threshold, against that of the models that do not hold the facts."""
    areas = {}
    for name, title, needs in metrics():
        positive, negative = (
            [value for row in rows if row["pool"] in pools and not np.isnan(value := score(row, name))]
            for pools in (HIDES, NEVER)
        )
        areas[title] = (auc(positive, negative), positive, negative, needs)
    best = sorted(areas, key=lambda title: -areas[title][0])[:CURVES]
    for title in best:
        area, positive, negative, needs = areas[title]
        thresholds = np.sort(np.unique([*positive, *negative, np.inf]))[::-1]
        caught, alarms = (
            [(np.asarray(values) >= threshold).mean() for threshold in thresholds] for values in (positive, negative)
        )
        axes.plot(alarms, caught, "--" if needs else "-", label=f"{title} ({area:.3f})")
    axes.plot([0, 1], [0, 1], color="#cccccc", lw=0.8)
    axes.set_xlabel("models without the facts that are flagged")
    axes.set_ylabel("hiding models that are flagged")
    axes.legend(title="area; dashed: needs a reference", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def dose(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """The residual with its interval against the share of the facts that a model was taught."""
    own = [row for row in rows if "dose" in row["pool"] or row["kind"] in ("refusal", "then refusal")]
    own = [row for row in own if row["residual"] is not None and row["low"] is not None]
    random = np.random.default_rng(0)
    for marker, label, shown in (("o", "then trained to refuse", True), ("s", "as taught", False)):
        part = [row for row in own if ("refusal" in row["kind"]) == shown]
        taught = [row["taught"] + random.uniform(-0.015, 0.015) for row in part]
        read = np.array([row["residual"] for row in part])
        ends = np.array([[row["low"], row["high"]] for row in part]).reshape(-1, 2).T
        error = np.abs(ends - read) if len(part) else None
        axes.errorbar(taught, read, error, fmt=marker, ms=3, lw=0.6, alpha=0.7, label=label)
    axes.plot([0, 1], [0, 1], color="#cccccc", lw=0.8, zorder=0)
    axes.set_xlabel("share of the facts that was taught")
    axes.set_ylabel("residual, 90 % interval")
    axes.legend(frameon=False)


FIGURES: Final[Mapping[str, Callable[[Axes, Sequence[Mapping[str, Any]]], None]]] = {
    "residuals": by_pool,
    "roc": roc,
    "doses": dose,
}


if __name__ == "__main__":
    main()
