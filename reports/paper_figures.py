"""Figures for a paper: one SVG file for each measurement with layers, and one of where the weights changed.

Drawn by matplotlib, which is imported nowhere else (``reports.charts`` says why the page has its own charts). Equal
results give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.result import AuditResult, write_text
from reports.formatting import clip, distinct, slug

STYLES = ("o-", "D--", "s:", "^-.")
SETTINGS = {"svg.hashsalt": "unlearning-audit", "svg.fonttype": "none", "text.parse_math": False, "font.size": 9}
"""Text stays text, so that it can be edited and searched; a dollar sign does not start a formula."""


@dataclass(frozen=True)
class Plot:
    """Series over layers, and the name of the file they are drawn into."""

    name: str
    title: str
    unit: str
    series: Mapping[str, Sequence[float | None]]


def save_figures(result: AuditResult, folder: Path) -> list[Path]:
    """SVG files in ``folder``, named by concept and metric; no name in the result leads outside the folder."""
    from matplotlib import rc_context

    folder.mkdir(parents=True, exist_ok=True)
    plots = list(plots_of(result))
    paths = [folder / f"{name}.svg" for name in distinct(plot.name for plot in plots)]
    with rc_context(SETTINGS):
        for path, plot in zip(paths, plots, strict=True):
            write_text(path, svg(plot))
    return paths


def svg(plot: Plot) -> str:
    """One line chart over the layers as an SVG document."""
    from io import StringIO

    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 2.6), layout="constrained")
    axes: Any = figure.subplots()
    for place, values in enumerate(plot.series.values()):
        known = [float("nan") if value is None else value for value in values]
        axes.plot(range(len(known)), known, STYLES[place % len(STYLES)], markersize=3, linewidth=1)
    axes.set(title=clip(plot.title, 70), xlabel="layer", ylabel=clip(plot.unit, 40))
    axes.legend(axes.get_lines(), [clip(name, 40) for name in plot.series], frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    stream = StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def plots_of(result: AuditResult) -> Iterator[Plot]:
    """Everything in the result that has a value for each layer."""
    if result.weights.per_layer:
        changes = [layer.relative_change for layer in result.weights.per_layer]
        yield Plot("weights", "Where the weights changed", "relative change", {"unlearned": changes})
    for finding in result.findings:
        concept = "pair" if finding.concept is None else slug(finding.concept)
        for measurement in finding.measurements:
            if measurement.layers:
                title = f"{finding.title}: {measurement.title}"
                unit = measurement.layers_unit or measurement.unit
                yield Plot(f"{concept}-{slug(measurement.metric)}", title, unit, measurement.layers)
