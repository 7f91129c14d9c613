"""One new file is one new metric of the weights, with its columns in the tables, the result and the report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

import audit.metrics.weights as folder
from audit.commands.compare import compare
from audit.errors import ResultError
from audit.metrics import weights_metrics
from audit.plugins import PluginError
from audit.result import AuditResult, Column, Weights
from reports.html import render
from tests.sample_result import sample
from tests.tiny import edit, write_tiny

METRIC = '''
"""Share of the weights that change sign."""

from audit.result import Column, Measured
from audit.weights import contract

TITLE = "Signs flipped"
COLUMNS = (Column(name="sign_flips", title="sign flips", unit="share", kind="share", tables=("tensor", "layer")),)


class Tally(contract.Tally):
    def __init__(self, tensor):
        super().__init__(tensor)
        self.flips = 0

    def add(self, block):
        self.flips += int((block.base.sign() != block.unlearned.sign()).sum())

    def result(self):
        return self.flips


class Observer(contract.Observer):
    def __init__(self, architecture):
        self.flips = self.total = 0

    def add(self, tensor, result):
        self.flips, self.total = self.flips + result, self.total + tensor.numel
        return {"sign_flips": result / tensor.numel} if result else {}

    def layer(self, layer):
        return {"sign_flips": 0.125}

    def measure(self):
        return Measured(value=self.flips / self.total)
'''
NEGATED = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that the folder of weights metrics gains for one test."""
    added = tmp_path / "added"
    added.mkdir()
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(added)])
    weights_metrics.cache_clear()
    yield added / "sign_flips.py"
    weights_metrics.cache_clear()
    sys.modules.pop("audit.metrics.weights.sign_flips", None)


def test_a_new_file_adds_its_columns_to_the_result_and_the_report(new_file: Path, tmp_path: Path) -> None:
    new_file.write_text(METRIC, encoding="utf-8")
    base = write_tiny(tmp_path / "base")
    negated = edit(base, tmp_path / "negated", lambda name, tensor: -tensor if name == NEGATED else tensor)
    compare(base, negated).write(tmp_path / "result.json")
    weights = AuditResult.read(tmp_path / "result.json").weights
    assert "sign_flips" in {row.metric for row in weights.measurements}
    flips = {row.name: (row.model_extra or {})["sign_flips"] for row in weights.per_tensor}
    assert flips.pop(NEGATED) == 1.0
    assert set(flips.values()) == {None}
    assert [row.model_dump()["sign_flips"] for row in weights.per_layer] == [0.125, 0.125]
    page = render(AuditResult.read(tmp_path / "result.json"))
    assert page.count("sign flips</") >= 3  # headings of the changed tensors, of all tensors and of the layers
    assert "12.5 %" in page


@pytest.mark.parametrize(
    ("original", "broken", "message"),
    [
        ("class Tally(contract.Tally)", "class Tally", "sign_flips.Tally must extend audit.weights.contract.Tally"),
        ("    def result(self):", "    def outcome(self):", "sign_flips.Tally must extend"),
        ("    def measure(self):", "    def value(self):", "sign_flips.Observer must extend"),
        ('name="sign_flips"', 'name="cosine"', "declares the column cosine, which"),
        ('name="sign_flips"', 'name="shape"', "declares the column shape, which"),
        ("COLUMNS =", "FIELDS =", "does not define COLUMNS"),
    ],
)
def test_a_file_that_breaks_the_contract_is_refused_by_name(
    new_file: Path, original: str, broken: str, message: str
) -> None:
    assert original in METRIC
    new_file.write_text(METRIC.replace(original, broken), encoding="utf-8")
    with pytest.raises(PluginError, match=message):
        weights_metrics()


def test_a_value_for_a_column_that_was_not_declared_is_refused(new_file: Path, tmp_path: Path) -> None:
    new_file.write_text(METRIC.replace('tables=("tensor", "layer")', 'tables=("tensor",)'), encoding="utf-8")
    base = write_tiny(tmp_path / "base")
    with pytest.raises(PluginError, match="sign_flips fills in sign_flips of the layer table"):
        compare(base, base)


def test_a_result_with_a_column_that_nothing_declares_is_refused(tmp_path: Path) -> None:
    result = sample(4)
    first = result.weights.per_tensor[0]
    rows = [first.model_copy(update={"typo": 1.0}), *result.weights.per_tensor[1:]]
    update = {"weights": result.weights.model_copy(update={"per_tensor": rows})}
    result.model_copy(update=update).write(tmp_path / "result.json")
    with pytest.raises(ResultError, match="typo"):
        AuditResult.read(tmp_path / "result.json")


@pytest.mark.parametrize("name", ["", "with space", "9", "<b>", "lone \ud800 surrogate"])
def test_a_column_name_is_a_plain_key(name: str) -> None:
    with pytest.raises(ValidationError):
        Column(name=name, title="title")


def test_every_column_of_a_metric_has_a_title_and_a_unit() -> None:
    columns = [column for metric in weights_metrics().values() for column in metric.COLUMNS]
    assert all(column.title and column.unit and column.tables for column in columns)


def test_numbers_of_a_further_column_that_are_not_finite_become_null() -> None:
    column = Column(name="extra", title="extra", tables=("layer",))
    row = {"layer": 0, "relative_change": 0.0, "cosine": 1.0, "l2": 0.0, "extra": float("nan")}
    weights = Weights.model_validate(
        {"changed_tensors": 0, "total_tensors": 0, "changed_fraction": None, "columns": [column], "per_layer": [row]}
    )
    assert weights.per_layer[0].model_dump()["extra"] is None
