"""Figures for a paper: one for each series of layers, equal bytes for equal results, text that can be searched."""

from __future__ import annotations

from pathlib import Path

from reports.paper import charts, save_figures
from tests.sample_result import sample


def test_every_series_of_layers_becomes_a_figure(tmp_path: Path) -> None:
    written = save_figures(sample(), tmp_path)
    assert [path.stem for path in written] == [name for name, *_ in charts(sample())]
    assert "weights" in {path.stem for path in written}
    assert "layer" in written[0].read_text(encoding="utf-8")


def test_equal_results_give_equal_figures(tmp_path: Path) -> None:
    once, again = (save_figures(sample(), tmp_path / name) for name in ("once", "again"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
