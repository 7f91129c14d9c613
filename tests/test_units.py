"""Finished units: what is read once is taken from there, and a damaged file is read again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audit.topic_reader
from audit.attacks import AttackedModel
from audit.commands.compare import compare
from audit.kept_readings import run_digest
from audit.questions.conditions import Condition
from audit.questions.items import Encoder, FactGroup, Item, ItemSet, Prompt
from audit.questions.readings import Readings
from audit.questions.topics import ConceptTopic
from audit.request import Request, RunContext
from audit.result import AuditResult
from audit.settings import Settings
from audit.topic_reader import TopicReader
from audit.units import UnitStore
from concepts.concept import load_concept
from tests.helpers import open_model
from tests.tiny import edit_config, write_tiny

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
ITEM = Item("target/0", "target", "q?", "x", (1,), (5, 7))
ITEMS = ItemSet(
    items=(ITEM,), sentences_left_out=3, written=(Prompt("fact/0", "fact", "q?", "q?", (1,), ("x",)),), groups=(GROUP,)
)
READINGS = Readings(
    items=(ITEM,),
    answer_logprobs=(np.array([-0.5, -2.0]),),
    answer_hits=(np.array([True, False]),),
    keys={"target": np.ones((1, 2, 3), dtype=np.float32), "unrelated": np.empty((0, 0, 0), dtype=np.float32)},
    groups=ITEMS.groups,
    scores={("fact", "city"): np.array([[-1.5, -2.25], [-3.0, -0.1]])},
    lens={("fact", "city"): np.arange(8.0).reshape(2, 2, 2)},
    generated={"fact/0": "Ünique \ud800 text"},
    right={"fact/0": True},
    prompts={"fact/0": "q?"},
    answers={"fact/0": ("x",)},
    trained_loss=(2.5, 0.25),
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
    assert loaded.trained_loss == (2.5, 0.25)
    for key, scores in READINGS.scores.items():
        assert np.array_equal(loaded.scores[key], scores)
        assert np.array_equal(loaded.lens[key], READINGS.lens[key])
    assert loaded.base_lens == {}
    assert (loaded.items, loaded.sentences_left_out, list(loaded.keys)) == ((ITEM,), 3, ["target", "unrelated"])
    assert np.array_equal(loaded.keys["target"], READINGS.keys["target"])
    assert np.array_equal(loaded.answer_logprobs[0], READINGS.answer_logprobs[0])
    assert loaded.answer_hits[0].tolist() == [True, False]
    assert store.generated(CONDITION) == READINGS.generated


def test_a_unit_of_fewer_items_is_read_again(tmp_path: Path) -> None:
    store = UnitStore(tmp_path, {})
    store.save(CONDITION, READINGS)
    assert store.load(CONDITION, replace(ITEMS, items=(ITEM, replace(ITEM, id="target/1")))) is None


def test_a_note_is_kept_beside_the_units(tmp_path: Path) -> None:
    store = UnitStore(tmp_path, {"model": "a"})
    assert store.note("twin") is None
    store.save_note("twin", {"steps": 8})
    assert store.note("twin") == {"steps": 8}
    assert UnitStore(tmp_path, {"model": "b"}).note("twin") is None


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


def audit_of(pair: tuple[Path, Path], units: Path) -> AuditResult:
    context = RunContext(Settings(attacks="quick", limit=2), units=units)
    return compare(*pair, request=Request((str(pair[0].parent / "facts.toml"),)), context=context)


def test_a_second_audit_runs_no_model_again(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            ran.append(function)
            return function(*arguments, **named)

        return call

    for name in ("generate", "write_and_read", "refusal_twin"):
        monkeypatch.setattr(audit.topic_reader, name, counted(getattr(audit.topic_reader, name)))
    first = audit_of(pair, tmp_path / "units").findings
    assert len(ran) > 5
    ran.clear()
    assert audit_of(pair, tmp_path / "units").findings == first
    assert ran == []


def test_another_audit_of_the_same_base_reads_only_the_other_model(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _ = pair
    third = write_tiny(tmp_path / "third", seed=2)
    alone = audit_of((base, third), tmp_path / "other units").findings
    audit_of(pair, tmp_path / "units")
    monkeypatch.setattr(audit.topic_reader, "refusal_twin", lambda *_: pytest.fail("the twin was trained again"))
    assert audit_of((base, third), tmp_path / "units").findings == alone


def test_an_interrupted_audit_goes_on_where_it_was(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = audit_of(pair, tmp_path / "other units").findings
    plain, calls = TopicReader._read_alone, iter(range(100))

    def interrupted(self: TopicReader, each: AttackedModel, *arguments: object) -> Readings:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return plain(self, each, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TopicReader, "_read_alone", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audit_of(pair, tmp_path / "units")
    kept = set((tmp_path / "units").iterdir())
    assert len(kept) > 2
    assert audit_of(pair, tmp_path / "units").findings == whole
    assert kept < set((tmp_path / "units").iterdir())


def test_the_same_weights_with_another_config_or_tokenizer_are_read_again(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, unlearned = pair
    audit_of(pair, tmp_path / "units")
    changed = Path(shutil.copytree(unlearned, tmp_path / "changed"))
    edit_config(changed, rms_norm_eps=0.5)
    alone = audit_of((base, changed), tmp_path / "other units").findings
    assert alone != audit_of(pair, tmp_path / "units").findings
    assert audit_of((base, changed), tmp_path / "units").findings == alone


def test_what_decides_the_readings_beside_the_weights_is_in_the_digest(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "a"))
    topic = ConceptTopic(load_concept("italy"))
    items = topic.items(Encoder(model.tokenizer, 10**6))
    before = run_digest(model, items)
    assert run_digest(open_model(write_tiny(tmp_path / "b", seed=1)), items) == before, (
        "weights have digests of their own"
    )
    assert run_digest(open_model(write_tiny(tmp_path / "c", rms_norm_eps=0.5)), items) != before
    assert run_digest(model, replace(items, written=items.written[1:])) != before
    model.tokenizer.chat_template = "{{ messages }}"  # type: ignore[misc]  # the protocol only reads it
    assert run_digest(model, items) != before
