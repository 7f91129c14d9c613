"""Figures for a paper: one for each series of layers, equal bytes for equal results, text that can be searched."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from reports.paper_figures import plots_of, save_figures
from tests.sample_result import hostile, sample


def test_every_series_of_layers_becomes_a_figure(tmp_path: Path) -> None:
    written = save_figures(sample(), tmp_path)
    assert [path.stem for path in written] == [plot.name for plot in plots_of(sample())]
    assert "weights" in {path.stem for path in written}
    assert "layer" in written[0].read_text(encoding="utf-8")


def test_equal_results_give_equal_figures(tmp_path: Path) -> None:
    once, again = (save_figures(sample(), tmp_path / name) for name in ("once", "again"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_no_name_leads_outside_the_folder_and_none_is_written_twice(tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    written = save_figures(hostile(), folder)
    assert len(set(written)) == len(list(plots_of(hostile())))
    assert {path.resolve().parent for path in written} == {folder.resolve()}
    assert {path.name for path in tmp_path.rglob("*.svg")} == {path.name for path in written}
    assert list(tmp_path.iterdir()) == [folder]


def test_hostile_text_leaves_the_drawing_well_formed(tmp_path: Path) -> None:
    for path in save_figures(hostile(), tmp_path)[:3]:
        root = ElementTree.parse(path).getroot()
        assert not [node for node in root.iter() if node.tag.endswith("script")]


def test_a_dollar_sign_does_not_start_a_formula(tmp_path: Path) -> None:
    result = sample()
    priced = result.findings[0].model_copy(update={"title": r"costs $5 and $\nosuchcommand$"})
    written = save_figures(result.model_copy(update={"findings": [priced]}), tmp_path)
    assert any("nosuchcommand" in path.read_text(encoding="utf-8") for path in written)
