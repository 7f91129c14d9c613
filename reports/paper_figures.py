"""Figures for a paper: one vector graphic for each measurement with layers, and one of where the weights changed.

matplotlib is loaded here and nowhere else. Equal results give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from audit.result import AuditResult, write_text
from reports.formatting import clip, distinct, slug

Series = Mapping[str, Sequence[float | None]]
STYLES = ("o-", "D--", "s:", "^-.")
SETTINGS = {"svg.hashsalt": "unlearning-audit", "svg.fonttype": "none", "text.parse_math": False, "font.size": 9}
"""Text stays text, so that it can be edited and searched; a dollar sign in it is a dollar sign."""


def save_figures(result: AuditResult, folder: Path) -> list[Path]:
    """SVG files in ``folder``, named by concept and metric; no name in the result can lead outside it."""
    from matplotlib import rc_context

    folder.mkdir(parents=True, exist_ok=True)
    drawn = list(charts(result))
    written = [folder / f"{name}.svg" for name in distinct(name for name, *_ in drawn)]
    with rc_context(SETTINGS):
        for path, (_, title, unit, series) in zip(written, drawn, strict=True):
            write_text(path, svg(title, unit, series))
    return written


def svg(title: str, unit: str, series: Series) -> str:
    """One chart over the layers as an SVG document."""
    from io import StringIO

    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 2.6), layout="constrained")
    axes: Any = figure.subplots()
    for place, values in enumerate(series.values()):
        known = [float("nan") if value is None else value for value in values]
        axes.plot(range(len(known)), known, STYLES[place % len(STYLES)], markersize=3, linewidth=1)
    axes.set(title=clip(title, 70), xlabel="layer", ylabel=clip(unit, 40))
    axes.legend(axes.get_lines(), [clip(name, 40) for name in series], frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    stream = StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def charts(result: AuditResult) -> Iterator[tuple[str, str, str, Series]]:
    """(file name, title, unit, series) of everything that has a value for each layer."""
    if result.weights.per_layer:
        changes = [layer.relative_change for layer in result.weights.per_layer]
        yield "weights", "Where the weights changed", "relative change", {"unlearned": changes}
    for finding in result.findings:
        for measurement in finding.measurements:
            if measurement.layers:
                concept = "pair" if finding.concept is None else slug(finding.concept)
                title = f"{finding.title}: {measurement.title}"
                unit = str(measurement.details.get("layers", measurement.unit))
                yield f"{concept}-{slug(measurement.metric)}", title, unit, measurement.layers
