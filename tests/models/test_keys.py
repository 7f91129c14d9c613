"""Key vectors of many prompts: the same as the audit's own forward pass reads, whatever the batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from audit.errors import ModelError
from audit.models.forward import Row, run
from audit.models.keys import collect, collect_each, last_keys, mean_keys
from audit.models.loading import RunningModel
from tests.helpers import open_model
from tests.tiny import FAMILIES, write_tiny

PROMPTS = [tuple(range(1, 2 + length)) for length in (7, 1, 4, 12, 4)]


def hooks(model: RunningModel) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.model.modules())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RunningModel:
    return open_model(write_tiny(tmp_path_factory.mktemp("keys") / "llama"))


@pytest.mark.parametrize("family", FAMILIES)
def test_last_token_keys_are_those_of_the_forward_pass(family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    before = hooks(model)
    rows = collect(model, PROMPTS, batch_size=2).rows
    assert hooks(model) == before
    for batch in run(model, [Row(ids, len(ids) - 1) for ids in PROMPTS]):
        expected = batch.keys.swapaxes(0, 1).numpy()  # [n_rows, n_layers, d_mlp]
        np.testing.assert_allclose(rows[list(batch.rows)], expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("family", ["llama", "opt", "mixtral"])
def test_mean_keys_leave_padding_out(family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    together = collect(model, PROMPTS, pool="mean").rows
    alone = np.concatenate([collect(model, [ids], pool="mean").rows for ids in PROMPTS])
    np.testing.assert_allclose(together, alone, rtol=2e-3, atol=2e-3)
    prefixes = [PROMPTS[0][: end + 1] for end in range(len(PROMPTS[0]))]
    every = collect(model, prefixes).rows.astype(np.float32)  # causal: the last key of each prefix
    np.testing.assert_allclose(together[0], every[1:].mean(axis=0), rtol=5e-3, atol=5e-3)  # but the first


def test_the_mean_of_one_token_is_that_token(model: RunningModel) -> None:
    one = [(5,)]
    np.testing.assert_array_equal(collect(model, one, pool="mean").rows, collect(model, one).rows)


def test_both_are_the_last_keys_and_then_the_mean_keys(model: RunningModel) -> None:
    both = collect(model, PROMPTS, pool="both").rows
    apart = [collect(model, PROMPTS, pool=pool).rows for pool in ("last", "mean")]
    np.testing.assert_array_equal(both, np.concatenate(apart, axis=1))


@pytest.mark.parametrize("pooled", [last_keys, mean_keys])
def test_padding_on_the_left_is_left_out_too(pooled: Callable[..., torch.Tensor]) -> None:
    keys = torch.randn(2, 5, 3)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    alone = [pooled(keys[:1, 2:], mask[:1, 2:]), pooled(keys[1:], mask[1:])]
    torch.testing.assert_close(pooled(keys, mask), torch.cat(alone))


def test_the_mean_is_not_the_last_key(model: RunningModel) -> None:
    assert not np.allclose(collect(model, PROMPTS).rows, collect(model, PROMPTS, pool="mean").rows, atol=1e-2)


def test_prompts_beyond_the_context_are_counted_and_have_no_row(model: RunningModel) -> None:
    short = replace(model, context=6)
    keys = collect(short, PROMPTS)
    assert (keys.kept, keys.skipped) == ((1, 2, 4), (0, 3))
    np.testing.assert_array_equal(keys.rows, collect(model, [PROMPTS[index] for index in keys.kept]).rows)


def test_an_empty_prompt_is_an_error(model: RunningModel) -> None:
    with pytest.raises(ModelError, match="prompt 1 holds no token"):
        collect(model, [(1, 2), ()])


def test_keys_that_are_not_finite_are_an_error_and_leave_no_hook(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    weight = next(iter(model.model.parameters()))
    weight.data = torch.full_like(weight, float("nan"))
    before = hooks(model)
    with pytest.raises(ModelError, match="not a finite number"):
        collect(model, PROMPTS)
    assert hooks(model) == before


def test_keys_beyond_float16_are_an_error_that_says_so(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "llama"))
    model.model.get_parameter("model.layers.1.mlp.up_proj.weight").data *= 1e8
    with pytest.raises(ModelError, match=r"in torch\.float32 is not a finite number in float16.* 65,504"):
        collect(model, PROMPTS)


def test_several_sets_are_read_together_and_given_back_apart(model: RunningModel) -> None:
    short = replace(model, context=6)
    first, none, second = collect_each(short, [PROMPTS[:2], [], PROMPTS[2:]], pool="both")
    assert len(none) == 0
    apart = [collect(short, some, pool="both").rows for some in (PROMPTS[:2], PROMPTS[2:])]
    for rows, expected in zip((first, second), apart, strict=True):
        np.testing.assert_allclose(rows, expected, rtol=2e-3, atol=2e-3)
    assert (len(first), len(second)) == (1, 2)  # two are longer than the context
