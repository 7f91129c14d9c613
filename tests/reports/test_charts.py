"""Charts of the page: a title, a description and a table for each; series differ by more than color."""

from __future__ import annotations

import re

from reports import charts
from reports.html import asset, render
from tests import sample_guard
from tests.reports.test_html import Page
from tests.sample_result import sample


def test_every_figure_has_a_title_a_description_and_a_table() -> None:
    page = Page(render(sample()))
    pictures = [attributes for tag, attributes in page.elements if tag == "svg" and attributes.get("role") == "img"]
    ids = set(page.attributes("id"))
    assert len(pictures) > 10
    for attributes in pictures:
        assert attributes["aria-labelledby"] in ids
        assert attributes["aria-describedby"] in ids
    line_charts = sum("-chart-" in str(attributes["aria-labelledby"]) for attributes in pictures)
    assert line_charts >= sum(tag == "summary" for tag, _ in page.elements if tag == "svg")
    for section in re.findall(r'<article class="measure".*?</article>', render(sample()), re.DOTALL):
        assert ('class="figure"' in section) <= ("the data of the chart" in section)


def test_series_differ_in_dash_and_marker_and_not_in_colour_alone() -> None:
    drawn = charts.lines("k", "t", "u", {name: [1.0, 2.0] for name in charts.STYLES})
    assert len(set(re.findall(r'class="line (s\d)"', drawn))) == len(charts.STYLES)
    shapes = re.findall(r'class="mark (s\d)"><title>[^<]*</title><(\w+) (?:points="[^"]*")?', drawn)
    assert len(set(shapes)) == len(charts.STYLES)
    css = asset("style.css")
    dashes = [re.search(rf"\.line\.s{n}[^}}]*?stroke-dasharray: ([\d ]+)", css) for n in range(6)]
    assert len({dash and dash[1] for dash in dashes}) >= 5


def test_no_two_series_of_a_chart_look_the_same() -> None:
    for names in (["base", "other"], ["odd", "unlearned", "even"], ["base", "unlearned", "retained", "x", "y"]):
        assert len(set(charts.styles_of(names).values())) == len(names)
    assert charts.styles_of(["odd", "unlearned"])["unlearned"] == charts.STYLES["unlearned"]


def test_series_of_one_unit_share_an_axis_that_names_it() -> None:
    text = render(sample_guard.guarded())
    charts = re.findall(r"concept-math-held_out_inside-chart-(\d)-title", text)
    assert set(charts) == {"0"}
    assert "layer (share inside the hypercube fitted at that layer)" in text


def test_a_long_legend_continues_in_further_lines_and_the_chart_makes_room() -> None:
    names = [f"others_inside: skill number {number}" for number in range(6)]
    drawn = charts.lines("key", "title", "unit", {name: [0.0, 1.0] for name in names})
    labels = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="label">(others[^<]*)<', drawn)
    assert [name for *_, name in labels] == names
    assert all(float(x) + 7.2 * len(name) <= charts.WIDTH for x, _, name in labels)
    lines = sorted({float(y) for _, y, _ in labels})
    assert len(lines) == 3
    highest = min(float(y) for y in re.findall(r'<line [^>]*y1="([\d.]+)"', drawn))
    assert lines[-1] < highest


def test_a_dose_curve_shows_both_effects_their_intervals_and_the_chosen_strength() -> None:
    doses = [
        charts.Dose(0.25 * step, (float(step), 0.125 * step), ((step - 0.5, step + 0.5), None), chosen=step == 2)
        for step in range(4)
    ]
    drawn = charts.dose_curve("k", "Doses", "nats", doses)
    assert drawn.count('class="whisker s1"') == 4
    assert drawn.count('class="whisker s3"') == 0
    assert "0.5 chosen" in drawn
    assert "at 0.75: 3 against 0.375" in drawn
    assert charts.dose_curve("k", "Doses", "nats", doses[:1]) == ""


def test_a_scatter_has_one_panel_a_model_on_the_same_scales() -> None:
    points = [charts.Point(panel, kind, x, x) for panel in ("base", "unlearned") for kind in "ab" for x in (0.0, 2.0)]
    drawn = charts.scatter("k", "Plane", points)
    assert drawn.count('class="frame"') == 2
    assert "base: 2 a, 2 b; unlearned: 2 a, 2 b" in drawn
    assert charts.scatter("k", "Plane", []) == ""
