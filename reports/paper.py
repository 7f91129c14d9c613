"""Figures for a paper: one vector graphic for each measurement with layers, and one of where the weights changed.

matplotlib is loaded here and nowhere else. Equal results give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from audit.result import AuditResult

Series = Mapping[str, Sequence[float | None]]
STYLES = ("o-", "D--", "s:", "^-.")


def save_figures(result: AuditResult, folder: Path) -> list[Path]:
    """SVG files in ``folder``, named by concept and metric; text stays text, so that it can be edited and searched."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with pyplot.rc_context({"svg.hashsalt": "unlearning-audit", "svg.fonttype": "none", "font.size": 9}):
        for name, title, unit, series in charts(result):
            figure, axes = pyplot.subplots(figsize=(5.5, 2.6), layout="constrained")
            for style, (label, values) in zip(STYLES * len(series), series.items(), strict=False):
                known = [float("nan") if value is None else value for value in values]
                axes.plot(range(len(known)), known, style, label=label, markersize=3, linewidth=1)
            axes.set(title=title, xlabel="layer", ylabel=unit)
            axes.legend(frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            pyplot.close(figure)
            written.append(path)
    return written


def charts(result: AuditResult) -> Iterator[tuple[str, str, str, Series]]:
    """(file name, title, unit, series) of everything that has a value for each layer."""
    if result.weights.per_layer:
        changes = [layer.relative_change for layer in result.weights.per_layer]
        yield "weights", "Where the weights changed", "relative change", {"unlearned": changes}
    for finding in result.findings:
        for measurement in finding.measurements:
            if measurement.layers:
                name = f"{finding.concept or 'pair'}-{measurement.metric}"
                title = f"{finding.title}: {measurement.title}"
                yield name, title, str(measurement.details.get("layers", measurement.unit)), measurement.layers
