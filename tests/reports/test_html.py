"""The page as a string: complete, inert whatever a checkpoint says, the same bytes for the same result."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from audit.result import AuditResult, Control, Measurement
from reports import formatting, tables, wording
from reports.html import asset, render
from tests import sample_guard, sample_result
from tests.sample_result import hostile, sample, single

ROOT = Path(__file__).resolve().parents[2]
BUILDERS = [
    sample_result.sample,
    sample_result.single,
    sample_result.several,
    sample_result.known,
    sample_result.kinds,
    sample_result.compared,
    sample_result.destroyed,
    sample_result.identical,
    sample_result.weights_only,
    sample_result.hostile,
    sample_guard.guarded,
    sample_guard.adjusted,
]
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What a browser would make of the page: elements with attributes, text, scripts, and whether tags balance."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module", params=BUILDERS, ids=lambda build: build.__name__)
def drawn(request: pytest.FixtureRequest) -> tuple[AuditResult, str]:
    build: Callable[[], AuditResult] = request.param
    result = build()
    return result, render(result)


def test_every_result_gives_one_balanced_page(drawn: tuple[AuditResult, str]) -> None:
    page = Page(drawn[1])
    assert drawn[1].startswith("<!doctype html>")
    assert (page.unbalanced, page.open) == ([], [])


def test_every_page_is_under_a_megabyte(drawn: tuple[AuditResult, str]) -> None:
    assert len(drawn[1].encode("utf-8")) < 2**20


def test_every_fragment_leads_to_an_anchor_and_every_anchor_is_unique(drawn: tuple[AuditResult, str]) -> None:
    page = Page(drawn[1])
    anchors = page.attributes("id")
    assert [name for name, count in Counter(anchors).items() if count > 1] == []
    links = page.attributes("href")
    assert [link for link in links if not link.startswith("#") and link != "data:,"] == []
    assert {link[1:] for link in links if link.startswith("#")} <= set(anchors)


def test_the_page_names_nothing_to_load(drawn: tuple[AuditResult, str]) -> None:
    page = Page(drawn[1])
    assert page.attributes("src") == []
    assert [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "embed", "base", "form")] == []
    assert not re.search(r"@import|url\(", asset("style.css"))


def test_equal_results_give_equal_bytes(drawn: tuple[AuditResult, str]) -> None:
    again = AuditResult.model_validate(drawn[0].model_dump())
    assert render(again) == drawn[1]


def test_bytes_are_equal_in_another_process() -> None:
    code = (
        "import hashlib, reports.html, tests.sample_result as s; "
        "print(hashlib.sha256(reports.html.render(s.sample()).encode()).hexdigest())"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == hashlib.sha256(render(sample()).encode()).hexdigest()


def test_another_result_gives_other_bytes() -> None:
    assert render(sample()) != render(single())


# ---- everything is there


def test_the_findings_come_right_after_the_verdict_and_the_record_of_the_run_last() -> None:
    page = Page(render(sample()))
    ids = page.attributes("id")
    order = ["verdict", "concept-italy", "concept-france", "tests", "audited", "layers", "unlearned"]
    order += ["weights", "controls", "limits", "repeat", "result"]
    assert [name for name in ids if name in order] == order


def test_every_measurement_appears_with_its_number_and_its_anchor() -> None:
    result = sample()
    page = Page(render(result))
    for finding in result.findings:
        for measurement in finding.measurements:
            assert f"concept-{finding.concept}-{measurement.metric}" in page.attributes("id")
            assert measurement.title in page.text
            assert measurement.value is None or formatting.number(measurement.value) in page.text
            assert measurement.p_value is None or formatting.number(measurement.p_value) in page.text
    for measurement in result.weights.measurements:
        assert f"weights-{measurement.metric}" in page.attributes("id")


def test_a_measurement_that_is_taken_out_is_gone_from_the_page() -> None:
    result = sample()
    kept = [
        finding.model_copy(update={"measurements": [m for m in finding.measurements if m.metric != "association"]})
        for finding in result.findings
    ]
    assert (
        "concept-italy-association" not in render(result.model_copy(update={"findings": kept})).split("result-json")[0]
    )


def test_reasons_for_what_was_not_measured_and_not_checked_appear() -> None:
    result = sample()
    text = Page(render(result)).text
    reasons = {measurement.not_measured for finding in result.findings for measurement in finding.measurements} - {None}
    assert reasons
    for reason in [*reasons, *(row.reason for row in result.not_checked)]:
        assert str(reason) in text


def test_verdict_reason_and_what_would_reverse_it_appear() -> None:
    result = sample()
    text = Page(render(result)).text
    for finding in result.findings:
        assert finding.reason in text
        assert finding.would_reverse in text


def test_what_was_audited_and_how_to_repeat_it_appear() -> None:
    result = sample()
    text = Page(render(result)).text
    for subject in (result.subjects.base, result.subjects.unlearned):
        assert subject.tensors_digest in text
        assert subject.files[0].sha256 in text
    assert f"{result.weights.changed_tensors} of {result.weights.total_tensors} tensors" in text
    assert result.run.command in text
    assert all(version in text for version in result.run.packages.values())


# ---- nothing in it can act


def test_hostile_strings_make_no_element_and_no_handler() -> None:
    plain, bad = Page(render(sample())), Page(render(hostile()))
    assert {tag for tag, _ in bad.elements} <= {tag for tag, _ in plain.elements} | {"article"}
    names = {name for _, attributes in bad.elements for name in attributes}
    assert [name for name in names if name.startswith("on")] == []
    assert len(bad.scripts) == 2
    assert "pwned" not in bad.scripts[0 if "use strict" in bad.scripts[0] else 1]


def test_hostile_characters_are_shown_as_escapes() -> None:
    text = render(hostile())
    assert [char for char in "\u202e\u202c\u2066\u200b\ufeff\x00\x1b\x07\ud800\udfff\u2028" if char in text] == []
    text.encode("utf-8")
    for escape in ("\\u202e", "\\u200b", "\\u0000", "\\u001b", "\\ud800"):
        assert escape in Page(text).text


def test_the_policy_allows_the_one_script_and_nothing_else() -> None:
    text = render(hostile())
    page = Page(text)
    (policy,) = [attributes["content"] or "" for _, attributes in page.elements if attributes.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy.split("script-src")[1]
    script = next(code for code in page.scripts if "use strict" in code)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


# ---- the embedded result


def embedded(text: str) -> tuple[str, str]:
    """The JSON inside the page, and the digest that the page states."""
    script = re.search(r'<script type="application/json"[^>]*data-encoding="(\w+)">(.*?)</script>', text, re.DOTALL)
    assert script is not None
    content = script[2] if script[1] == "json" else zlib.decompress(base64.b64decode(script[2])).decode()
    digest = re.search(r"<dd data-digest>(\w+)</dd>", text)
    assert digest is not None
    return content, digest[1]


def test_the_embedded_result_is_the_result(drawn: tuple[AuditResult, str]) -> None:
    content, digest = embedded(drawn[1])
    assert AuditResult.model_validate(json.loads(content)) == drawn[0]
    assert hashlib.sha256(content.encode()).hexdigest() == digest


def test_readable_json_cannot_close_its_script() -> None:
    small = hostile().model_copy(update={"findings": hostile().findings[:1]})
    content, _ = embedded(render(small))
    assert "</script>" in json.loads(content)["findings"][0]["concept"]
    assert "<" not in content


def test_the_stated_digest_of_the_file_is_that_of_the_written_file(tmp_path: Path) -> None:
    sample().write(tmp_path / "result.json")
    assert hashlib.sha256((tmp_path / "result.json").read_bytes()).hexdigest() in render(sample())


# ---- numbers and colours


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1.0, "1"), (0.99999, "0.99999"), (-1.5, "−1.5"), (123456.7, "123,457"), (1e-9, "1e-09"), (3, "3")],
)
def test_numbers_keep_four_digits_and_never_round_to_one(value: float, shown: str) -> None:
    assert formatting.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.9998231, "0.99982"), (0.99979, "0.99979"), (-0.9999987, "−0.9999987"), (0.98765, "0.9877")]
)
def test_just_below_one_the_distance_to_one_keeps_two_digits(value: float, shown: str) -> None:
    assert formatting.number(value) == shown


def test_a_number_whose_interval_contains_its_control_says_so() -> None:
    control = Control(name="matched vectors", value=0.97)
    measured = Measurement(metric="m", title="M", value=0.96, interval=(0.95, 0.98), base=1.0, control=control)
    assert "inside the interval: no clear difference" in wording.sentence(measured)
    apart = measured.model_copy(update={"control": Control(name="matched vectors", value=0.99)})
    assert "outside the interval" in wording.sentence(apart)
    assert "control" not in wording.sentence(measured.model_copy(update={"control": None})).lower()


def test_a_measurement_that_has_its_result_in_words_is_shown_by_them() -> None:
    measured = Measurement(metric="m", title="M", value=0.96, base=1.0, summary="Late layers bypass the knowledge.")
    assert wording.sentence(measured) == "Late layers bypass the knowledge."


def test_percent_is_0_or_100_only_where_exactly_true() -> None:
    assert formatting.percent(0.0) == "0 %"
    assert formatting.percent(1.0) == "100 %"
    assert formatting.percent(1e-9) not in ("0 %", "0.0 %")
    assert formatting.percent(0.999999) != "100 %"


def test_the_full_value_is_the_tooltip() -> None:
    page = Page(render(sample()))
    assert "0.9998231" in page.attributes("title")


def palettes() -> list[dict[str, str]]:
    """Variables of the light theme, and of the dark theme laid over them."""
    light, dark = re.findall(r":root \{\s*(?:color-scheme[^;]*;)?(.*?)\}", asset("style.css"), re.DOTALL)[:2]
    first = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    return [first, {**first, **dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark))}]


def luminance(colour: str) -> float:
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_a_contrast_of_4_5_in_both_themes(theme: int) -> None:
    colours = palettes()[theme]
    inks = ["ink", "muted", "link", *(name for name in colours if name.startswith("v-"))]
    pairs = [(ink, ground) for ink in inks for ground in ("paper", "panel")]
    pairs += [("muted", "h0"), *(("t-low", f"h{n}") for n in range(1, 5)), *(("t-high", f"h{n}") for n in range(5, 8))]
    weak = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_lines_and_marks_have_a_contrast_of_3_in_both_themes(theme: int) -> None:
    colours = palettes()[theme]
    names = ("base", "unlearned", "retained", "control", "other", "extra")
    assert [name for name in names if contrast(colours[name], colours["paper"]) < 3] == []


def test_the_themes_differ() -> None:
    light, dark = palettes()
    assert luminance(light["paper"]) > 0.9
    assert luminance(dark["paper"]) < 0.05


def test_an_unknown_metric_is_drawn_from_its_record_alone() -> None:
    new = Measurement(metric="new_metric", title="Something new", value=0.25, layers={"odd": [None, 1.0, -3.0]})
    result = sample()
    finding = result.findings[0].model_copy(update={"measurements": [new]})
    text = render(result.model_copy(update={"findings": [finding]}))
    assert 'id="concept-italy-new_metric"' in text
    assert "Something new" in text


def test_hostile_text_in_table_cells_is_escaped_there_too() -> None:
    cell = tables.Cell("<b>&\u202e", 'a"b', "t", "x")
    body = tables.Table("t", ["c"], [[cell]]).body
    assert body == ('<tr><th scope="row" class="t" title="a&#34;b"><a href="#x">&lt;b&gt;&amp;\\u202e</a></th></tr>\n')


def test_measurements_of_one_metric_under_several_conditions_have_their_own_titles_and_rows() -> None:
    plain = Measurement(metric="m", title="Accuracy", value=0.25, unit="share")
    attacked = plain.model_copy(update={"condition": "quantize: 4 bit", "value": 0.75})
    named = plain.model_copy(update={"metric": "worst", "condition": "spelled", "unit": "share (spelled)"})
    result = sample()
    finding = result.findings[0].model_copy(update={"measurements": [plain, attacked, named]})
    page = Page(render(result.model_copy(update={"findings": [finding]})))
    assert "Italy Accuracy 0.25" in page.text
    assert "Italy Accuracy (quantize: 4 bit) 0.75" in page.text
    assert "unit share (spelled)" in page.text
    assert len([anchor for anchor in page.attributes("id") if anchor in ("concept-italy-m", "concept-italy-m-2")]) == 2
