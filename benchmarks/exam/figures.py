"""The exam's figures, drawn from ``results/exam_models.json``.

    python -m benchmarks.exam.figures

The residual of every model by pool, the ROC of hidden against removed, the residual against the share taught, what
relearning brings back over its steps, and the p-values of models that do not hold the facts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.exam.grades import auc
from benchmarks.exam.tables import HIDES, NEVER, Row, metrics, score, scored
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
CURVE_POOLS: Final[Mapping[str, str]] = {
    "present": "#4269d0",
    "hidden": "#d1495b",
    "imprinted": "#c98a1b",
    "never": "#3a8f5c",
}
"""Pools whose recovery is drawn."""
CURVES: Final = 6
"""Metrics whose ROC is drawn, those with the largest areas; beside them ``USUAL``."""
USUAL: Final = "accuracy"


def main() -> None:
    rows = json.loads((RESULTS / "exam_models.json").read_text(encoding="utf-8"))["rows"]
    for name, draw in FIGURES.items():
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        with rc_context(SETTINGS):
            draw(figure.add_subplot(), rows)
            figure.savefig(IMAGES / f"exam_{name}.svg", metadata={"Date": None})
        print(IMAGES / f"exam_{name}.svg")


def by_pool(axes: Axes, rows: Sequence[Row]) -> None:
    """Each model's residual, coloured by the verdict on it."""
    pools = [pool for pool in POOLS if any(row["pool"] == pool for row in rows)]
    random = np.random.default_rng(0)
    for verdict, colour in COLOURS.items():
        own = [
            row for row in rows if row["verdict"] == verdict and row["pool"] in pools and row["residual"] is not None
        ]
        heights = [pools.index(row["pool"]) + random.uniform(-0.3, 0.3) for row in own]
        if own:
            read = [row["residual"] for row in own]
            axes.scatter(read, heights, s=9, color=colour, alpha=0.7, lw=0, label=verdict)
    axes.set_yticks(range(len(pools)), pools)
    axes.invert_yaxis()
    axes.set_xlabel("residual where most shows (0: a model that never knew, 1: the base)")
    axes.legend(title="verdict", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def roc(axes: Axes, rows: Sequence[Row]) -> None:
    """Share of the hiding models above every threshold, against that of the models that do not hold the facts."""
    areas = {}
    for name, title, needs in metrics():
        positive, negative = (
            [value for row in scored(rows) if row["pool"] in pools and not np.isnan(value := score(row, name))]
            for pools in (("hidden",), NEVER)
        )
        areas[title] = (auc(positive, negative), positive, negative, needs)
    best = sorted(areas, key=lambda title: -areas[title][0])[:CURVES]
    for title in dict.fromkeys((*best, USUAL)):
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


def dose(axes: Axes, rows: Sequence[Row]) -> None:
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


def recovery(axes: Axes, rows: Sequence[Row]) -> None:
    """How well one half of the facts can be read after training on the other, mean and middle 90 % of each pool."""
    for pool, colour in CURVE_POOLS.items():
        curves = [row["relearned"] for row in rows if row["pool"] == pool and len(row["relearned"]) > 1]
        if not curves:
            continue
        steps = sorted(int(step) for step in set.intersection(*map(set, curves)))
        read = np.array([[curve[str(step)] for step in steps] for curve in curves])
        low, high = np.quantile(read, [0.05, 0.95], axis=0)
        axes.plot(range(len(steps)), read.mean(0), color=colour, marker="o", ms=3, label=f"{pool} ({len(curves)})")
        axes.fill_between(range(len(steps)), low, high, color=colour, alpha=0.15, lw=0)
        axes.set_xticks(range(len(steps)), map(str, steps))
    axes.set_xlabel("steps of relearning on half of the facts")
    axes.set_ylabel("other half: 1 - 2 rank")
    axes.legend(title="pool (models)", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def null(axes: Axes, rows: Sequence[Row]) -> None:
    """Share of the models with a p-value at most x; a valid test stays on or below the diagonal without the facts."""
    for pools, label in ((NEVER, "do not hold the facts"), (HIDES, "hide the facts")):
        found = np.sort([row["p_value"] for row in rows if row["pool"] in pools and row["p_value"] is not None])
        shares = np.arange(1, len(found) + 1) / max(1, len(found))
        axes.step([0, *found, 1], [0, *shares, 1], where="post", label=f"{label} ({len(found)})")
    axes.plot([0, 1], [0, 1], color="#cccccc", lw=0.8, zorder=0)
    axes.set_xlabel("p-value of the exchange test, x")
    axes.set_ylabel("share of the models with p at most x")
    axes.legend(title="models that", frameon=False, loc="lower right")


FIGURES: Final[Mapping[str, Callable[[Axes, Sequence[Row]], None]]] = {
    "residuals": by_pool,
    "roc": roc,
    "doses": dose,
    "recovery": recovery,
    "null": null,
}


if __name__ == "__main__":
    main()
