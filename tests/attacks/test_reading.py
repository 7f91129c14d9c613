"""Attacks that compare a model with the base, run by the reader that reads the base first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audit import evidence
from audit.metrics import weights_metrics
from audit.models.loading import RunningModel
from audit.models.pair import open_pair
from audit.questions.base_parts import subject_tokens
from audit.request import RunContext
from audit.settings import Settings
from audit.topic_reader import TopicReader
from audit.weights.comparison import compare_weights
from tests.attacks.known_facts import TOPIC, changed, items_of
from tests.helpers import open_tiny
from tests.tiny import edit, write_tiny


def test_each_model_is_compared_with_what_was_kept_of_the_base(knowing: RunningModel) -> None:
    unlearned = changed(knowing)
    ids = list(subject_tokens(items_of(knowing).facts().written, knowing.tokenizer))
    with torch.no_grad():
        unlearned.model.get_input_embeddings().weight[ids] = 0
    reader = TopicReader(TOPIC, RunContext(Settings(attacks="directions,embedding_rows")), {})
    reader.read(knowing, "base")
    reader.read(unlearned, "unlearned")
    read = reader.readings()
    by_attack: dict[str, list[Any]] = {}
    for condition, by_role in read.by_condition.items():
        assert set(by_role) == {"base", "unlearned"}, condition
        by_attack.setdefault(condition.attack or "", []).append(by_role)
    assert {name: len(rows) for name, rows in by_attack.items()} == {"": 1, "directions": 3, "embedding_rows": 1}
    assert read.not_run == {}
    (restored,) = by_attack["embedding_rows"]
    for key, expected in restored["base"].scores.items():
        assert np.allclose(restored["unlearned"].scores[key], expected, atol=1e-4)


def test_a_reference_of_another_size_has_the_reason(knowing: RunningModel, tmp_path: Path) -> None:
    reader = TopicReader(TOPIC, RunContext(Settings(attacks="directions,embedding_rows")), {})
    reader.read(knowing, "base")
    reader.read_reference(open_tiny(tmp_path / "m", "llama"))
    reasons = {attack: reason for (role, attack), reason in reader.readings().not_run.items() if role == "reference"}
    assert set(reasons) == {"directions", "embedding_rows"}
    assert "not a version of the base" in reasons["directions"]


def test_the_size_of_the_update_is_that_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_tiny(tmp_path / "base")
    pair = open_pair(base, edit(base, tmp_path / "unlearned", lambda name, tensor: 1.25 * tensor))
    updates: list[float | None] = []

    class Reader(TopicReader):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            updates.append(self.update)

        def read(self, model: RunningModel, role: str) -> None:
            pass

    monkeypatch.setattr(evidence, "TopicReader", Reader)
    evidence.read_models(pair, [TOPIC], compare_weights(pair, weights_metrics()), RunContext())
    assert updates == [pytest.approx(0.25)]
