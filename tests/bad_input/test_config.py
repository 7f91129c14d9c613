"""Configs that contradict the weights, cannot be used, or name code to run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.models.opening import open_model
from audit.models.pair import open_pair
from tests.bad_input.samples import IDS, load, naive, refusal
from tests.tiny import edit_config


@pytest.mark.parametrize(
    ("layers", "built", "expected"),
    [(3, 3, "but the file has 2"), (1, 1, "but the file has 2"), (-1, 0, "not a positive whole number")],
    ids=["more", "fewer", "negative"],
)
def test_a_config_with_another_number_of_layers_is_refused(
    model: Path, shipped: Path, layers: int, built: int, expected: str
) -> None:
    edit_config(model, num_hidden_layers=layers)
    assert len(naive(model).model.layers) == built  # random layers added, or layers dropped
    if layers > 0:
        with torch.no_grad():
            assert not torch.equal(naive(model)(IDS).logits, naive(shipped)(IDS).logits)
    message = refusal(open_pair, shipped, model)
    assert f"num_hidden_layers = {layers}" in message
    assert expected in message


def test_a_config_with_ten_million_layers_is_refused_before_they_are_built(model: Path) -> None:
    edit_config(model, num_hidden_layers=10_000_000)
    started = time.perf_counter()
    assert "num_hidden_layers = 10,000,000, but the file has 2" in refusal(load, model)
    assert time.perf_counter() - started < 5


def test_a_config_with_a_vocabulary_of_10_to_the_12_is_refused(model: Path) -> None:
    edit_config(model, vocab_size=10**12)
    assert "vocab_size = 1,000,000,000,000, but the file has 320" in refusal(load, model)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"hidden_act": "nonsense"}, "nonsense"), ({"num_attention_heads": 3}, "num_attention_heads")],
    ids=["activation", "heads"],
)
def test_a_config_with_an_impossible_value_is_refused(model: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in refusal(load, edit_config(model, **changes))


def test_a_config_that_is_missing_broken_or_of_an_unknown_model_is_named(model: Path, shipped: Path) -> None:
    edit_config(model, model_type="nonsense")
    notes = " ".join(open_pair(model, model).notes)
    assert "model_type 'nonsense' of config.json is not supported (supported: " in notes
    assert "llama" in notes
    (model / "config.json").write_text("{")
    message = refusal(open_pair, shipped, model)
    assert "config.json: not valid JSON" in message
    (model / "config.json").unlink()
    assert "Pass its folder with --config" in refusal(open_model(model).require_config)


def test_code_in_the_folder_is_never_run(model: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (model / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    edit_config(model, auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"})
    assert "run code of its own (evil.Model, evil.Config), which is never done" in refusal(load, model)
    assert not mark.exists()
