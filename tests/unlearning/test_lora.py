"""Adapters in place of all weights: what changes is of low rank, lies in the blocks' linear layers, and is merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import tokenize
from audit.unlearning.methods import methods
from audit.unlearning.methods.npo import NPOSettings, unlearn
from audit.unlearning.parts import adapted_modules
from audit.unlearning.training import Record, TrainingSettings
from tests.helpers import DIFFERENT, RETAIN, Log, answer_sum, needed_options, open_model, open_tiny
from tests.tiny import write_tiny

WITH_ADAPTERS = [name for name, method in methods().items() if "lora_rank" in method.SETTINGS.as_json()]
ROUNDING = 1e-5
"""Largest singular value that rounding makes of a merged product, relative to the first."""


def changes(
    model: RunningModel, method: str, rank: int, needed: Mapping[str, Any] = {}
) -> tuple[dict[str, torch.Tensor], Record]:
    """What three steps change of each parameter, and the record."""
    before = {name: value.detach().clone() for name, value in model.model.named_parameters()}
    chosen = methods()[method]
    settings = replace(chosen.SETTINGS, steps=3, learning_rate=1e-2, lora_rank=rank, **needed)  # type: ignore[call-arg]
    record = chosen.unlearn(model, DIFFERENT, RETAIN, settings, Log())
    after = dict(model.model.named_parameters())
    assert list(after) == list(before)
    return {name: (value - before[name]).detach() for name, value in after.items()}, record


def require_low_rank(model: RunningModel, changed: dict[str, torch.Tensor], rank: int) -> None:
    """Every linear layer of the blocks changed by at most ``rank``, and nothing else changed at all."""
    adapted = adapted_modules(model)
    for name, change in changed.items():
        if name.removesuffix(".weight").endswith(tuple(adapted)):
            singular = torch.linalg.svdvals(change.double())
            assert singular[0] > 0, name
            assert (singular[rank:] < ROUNDING * singular[0]).all(), name
        else:
            assert not change.any(), name


@pytest.mark.parametrize("method", WITH_ADAPTERS)
def test_every_method_with_the_option_changes_linear_layers_alone_and_by_its_rank(method: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    changed, record = changes(model, method, 2, needed_options(method, tmp_path))
    require_low_rank(model, changed, rank=2)
    assert record.settings["lora_rank"] == record.changed["rank"] == 2
    assert record.changed["parameters"] == "low rank"
    assert record.changed["modules"] == [
        *(f"mlp.{name}_proj" for name in ("down", "gate", "up")),
        *(f"self_attn.{name}_proj" for name in "koqv"),
    ]
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi3"])
def test_transposed_and_fused_layers_change_by_the_rank_too(family: str, tmp_path: Path) -> None:
    model = open_tiny(tmp_path / "model", family)
    changed, _ = changes(model, "npo", rank=1)
    require_low_rank(model, changed, rank=1)


def test_tied_embeddings_stay_tied_and_as_they_were(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    changes(model, "npo", rank=2)
    embedding, head = model.model.get_input_embeddings().weight, model.model.get_output_embeddings().weight
    assert embedding is head
    assert torch.equal(embedding, open_model(tmp_path / "model").model.get_input_embeddings().weight)


def test_merged_adapters_say_what_the_adapters_said(tmp_path: Path) -> None:
    """The last recorded numbers are of the model with adapters: one more step from the merged weights begins there."""
    settings = NPOSettings(steps=6, learning_rate=1e-2, lora_rank=2, forget_batch=2, retain_batch=3)
    long, short = (open_model(write_tiny(tmp_path / name)) for name in ("long", "short"))
    record = unlearn(long, DIFFERENT, RETAIN, settings)
    tokens = tokenize(short.tokenizer, DIFFERENT)
    with torch.no_grad():
        before = torch.stack([answer_sum(short, each) for each in tokens])
        unlearn(short, DIFFERENT, RETAIN, replace(settings, steps=5))
        fallen = torch.stack([answer_sum(short, each) for each in tokens]) - before
    assert record.trajectory[5]["log_ratio"] == pytest.approx(fallen.mean().item(), abs=1e-3)
    assert record.trajectory[5]["log_ratio"] < -0.1


def test_a_negative_rank_is_an_error() -> None:
    with pytest.raises(AuditError, match="lora_rank must not be negative"):
        TrainingSettings(lora_rank=-1)
