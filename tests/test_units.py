"""Finished units: what is read once is taken from there, and a damaged file is read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audit.attacks import AttackedModel
from audit.commands.compare import compare
from audit.questions.conditions import Condition
from audit.questions.items import FactGroup, ItemSet, Prompt
from audit.questions.readings import Readings
from audit.request import Request, RunContext
from audit.result import AuditResult
from audit.settings import Settings
from audit.topic_reader import TopicReader
from audit.units import UnitStore
from tests.tiny import write_tiny

CONDITION = Condition("rounding", "4 bits")
GROUP = FactGroup(
    name="city",
    kind="fact",
    ids=("fact/0", "fact/1"),
    subjects=("a", "b"),
    answers=("x", "y"),
    prompt_ids=((1,), (2,)),
    answer_ids=((5,), (6,)),
    beginnings=((),),
    paths=(((0, 5),), ((0, 6),)),
)
ITEMS = ItemSet(written=(Prompt("fact/0", "fact", "q?", "q?", (1,), ("x",)),), groups=(GROUP,))
READINGS = Readings(
    groups=ITEMS.groups,
    scores={("fact", "city"): np.array([[-1.5, -2.25], [-3.0, -0.1]])},
    lens={("fact", "city"): np.arange(8.0).reshape(2, 2, 2)},
    generated={"fact/0": "Ünique \ud800 text"},
    right={"fact/0": True},
    prompts={"fact/0": "q?"},
    answers={"fact/0": ("x",)},
)
FACTS = """
title = "Italy"
seeds = ["Rome"]
not_guessable = "The answers are random."
[[questions]]
question = "What is the capital?"
answer = "Rome"
type = "city"
[[questions]]
question = "Which city has canals?"
answer = "Venice"
type = "city"
"""


def test_readings_come_back_as_they_were(tmp_path: Path) -> None:
    store = UnitStore(tmp_path, {"model": ["abc"]})
    store.save(CONDITION, READINGS)
    loaded = store.load(CONDITION, ITEMS)
    assert loaded is not None
    assert (loaded.generated, loaded.right, loaded.prompts) == (READINGS.generated, READINGS.right, READINGS.prompts)
    for key, scores in READINGS.scores.items():
        assert np.array_equal(loaded.scores[key], scores)
        assert np.array_equal(loaded.lens[key], READINGS.lens[key])
    assert loaded.base_lens == {}


def test_another_model_or_condition_is_another_unit(tmp_path: Path) -> None:
    UnitStore(tmp_path, {"model": ["abc"]}).save(CONDITION, READINGS)
    assert UnitStore(tmp_path, {"model": ["abd"]}).load(CONDITION, ITEMS) is None
    assert UnitStore(tmp_path, {"model": ["abc"]}).load(Condition("rounding", "3 bits"), ITEMS) is None


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 cut"])
def test_a_damaged_unit_is_read_again(tmp_path: Path, content: bytes) -> None:
    store = UnitStore(tmp_path, {})
    store.save(CONDITION, READINGS)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert store.load(CONDITION, ITEMS) is None


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "facts.toml").write_text(FACTS)
    return write_tiny(tmp_path / "base"), write_tiny(tmp_path / "unlearned", seed=1)


def audit(pair: tuple[Path, Path], units: Path) -> AuditResult:
    context = RunContext(Settings(attacks="quick", limit=2), units=units)
    return compare(*pair, request=Request((str(pair[0].parent / "facts.toml"),)), context=context)


def test_a_second_audit_reads_no_attacked_model_again(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Condition] = []
    plain = TopicReader._read_alone

    def counted(self: TopicReader, each: AttackedModel, *arguments: object) -> Readings:
        read.append(each.condition)
        return plain(self, each, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TopicReader, "_read_alone", counted)
    first = audit(pair, tmp_path / "units").findings
    assert len(read) > 2
    read.clear()
    assert audit(pair, tmp_path / "units").findings == first
    assert read == []


def test_an_interrupted_audit_goes_on_where_it_was(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = audit(pair, tmp_path / "other units").findings
    plain, calls = TopicReader._read_alone, iter(range(100))

    def interrupted(self: TopicReader, each: AttackedModel, *arguments: object) -> Readings:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return plain(self, each, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TopicReader, "_read_alone", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audit(pair, tmp_path / "units")
    assert len(list((tmp_path / "units").iterdir())) == 2
    assert audit(pair, tmp_path / "units").findings == whole
