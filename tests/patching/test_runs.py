"""A patched run gives the numbers of a plain pass with a hook, in every family, and of TransformerLens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from audit.models import opening
from audit.models.forward import Row
from audit.models.hooks import on_outputs
from audit.models.loading import RunningModel
from audit.patching.injection import inject
from audit.patching.restoration import restored_weights
from audit.patching.runs import BaseAnswers, Run
from audit.patching.sites import Alignment, putting_in, sites_of
from tests.helpers import open_model
from tests.tiny import DENSE, FAMILIES, write_tiny

ROWS = [Row((5, 9, 40, 77, 3, 8), 3), Row((5, 9, 41, 78), 2), Row((5, 9, 6, 7, 8, 11, 12), 4)]
"""They begin with the same two tokens; answers have two, one and two tokens."""
BATCH = [0, 1, 2]


def answers_of(run: Run, logits: Tensor) -> BaseAnswers:
    return BaseAnswers(logits, run.targets(BATCH), run.counts(BATCH))


def plain(model: RunningModel, row: Row) -> Tensor:
    """Log-probabilities at every position of one row, without cache or padding."""
    with torch.inference_mode():
        return model.model(torch.tensor([row.ids]), use_cache=False).logits[0].float().log_softmax(-1)


def answer_mean(logprobs: Tensor, row: Row) -> float:
    tokens = row.ids[row.last + 1 :]
    return float(np.mean([logprobs[row.last + at, token].item() for at, token in enumerate(tokens)]))


@pytest.mark.parametrize("family", FAMILIES)
def test_putting_a_stream_in_is_replacing_the_output_of_a_block(family: str, tmp_path: Path) -> None:
    receiver = open_model(write_tiny(tmp_path / "receiver", family, seed=0))
    giver = open_model(write_tiny(tmp_path / "giver", family, seed=1))
    run = Run(receiver, ROWS, [BATCH])
    recorded, given = run.record(BATCH), Run(giver, ROWS, [BATCH]).record(BATCH)
    logprob = inject(run, BATCH, recorded, given.states, answers_of(run, recorded.logits))[0]
    for layer in range(receiver.architecture.n_layers):
        for number, row in enumerate(ROWS):

            def replace(module: nn.Module, args: Any, output: Any, layer: int = layer, number: int = number) -> Any:
                stream = (output[0] if isinstance(output, tuple) else output).clone()
                stream[0, list(ROWS[number].positions)] = given.states[number][layer]
                return (stream, *output[1:]) if isinstance(output, tuple) else stream

            block = receiver.architecture.block_module.format(layer=layer)
            with on_outputs(receiver.model, {block: replace}):
                expected = answer_mean(plain(receiver, row), row)
            assert logprob[layer, number] == pytest.approx(expected, abs=2e-4), (layer, number)
    assert np.abs(logprob - np.array([answer_mean(plain(receiver, row), row) for row in ROWS])).max() > 0.01


@pytest.mark.parametrize("family", DENSE)
def test_putting_in_ones_own_activations_changes_nothing(family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    sites = sites_of(model.architecture)
    run = Run(model, ROWS, [BATCH])
    recorded = run.record(BATCH, sites)
    assert len(recorded.activations) == len(sites) == 1 + 2 * model.architecture.n_layers
    with putting_in(model, recorded.activations, sites):
        torch.testing.assert_close(run.forward(BATCH), recorded.logits)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gptj"])  # nothing else is added to the stream
def test_all_activations_and_value_vectors_of_the_base_give_its_stream(family: str, tmp_path: Path) -> None:
    base = opening.open_model(write_tiny(tmp_path / "base", family, seed=0))
    model = open_model(write_tiny(tmp_path / "other", family, seed=1))
    sites = sites_of(model.architecture)
    kept = Run(base.load(), ROWS, [BATCH]).record(BATCH, sites)
    weights = [name for name, (role, _) in model.architecture.roles.items() if role in ("W_out", "out_bias")]
    before = Run(model, ROWS, [BATCH]).record(BATCH)
    with restored_weights(model, base.checkpoint, weights):
        run = Run(model, ROWS, [BATCH])
        with putting_in(model, kept.activations, sites):
            patched = run.record(BATCH)
    for one, other, own in zip(patched.states, kept.states, before.states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(own, other, atol=0.1)
    after = Run(model, ROWS, [BATCH]).record(BATCH)
    torch.testing.assert_close(after.logits, before.logits)


def test_one_patch_is_that_of_transformer_lens(tmp_path: Path) -> None:
    receiver = opening.open_model(write_tiny(tmp_path / "receiver", seed=0))
    giver = open_model(write_tiny(tmp_path / "giver", seed=1))
    row = ROWS[0]
    model = receiver.load()
    run = Run(model, [row], [[0]])
    recorded, given = run.record([0]), Run(giver, [row], [[0]]).record([0])
    answers = BaseAnswers(recorded.logits, run.targets([0]), run.counts([0]))
    logprob = inject(run, [0], recorded, given.states, answers)[0][0, 0]

    def replace(stream: Tensor, hook: object) -> Tensor:
        stream[0, list(row.positions)] = given.states[0][0]
        return stream

    with torch.inference_mode():
        logits = receiver.bridge().run_with_hooks(
            torch.tensor([row.ids]), fwd_hooks=[("blocks.0.hook_out", replace)], return_type="logits"
        )
    assert logprob == pytest.approx(answer_mean(logits[0].float().log_softmax(-1), row), abs=1e-3)


def test_rows_are_aligned_at_their_ends() -> None:
    alignment = Alignment.of([4, 2], [3, 3])
    new = torch.arange(6.0).reshape(2, 3, 1)
    old = torch.full((2, 4, 1), -1.0)
    assert alignment.put_in(new, old)[..., 0].tolist() == [[-1, 0, 1, 2], [4, 5, -1, -1]]
    flat = alignment.put_in(new.reshape(6, 1), old.reshape(8, 1))
    assert flat[:, 0].tolist() == [-1, 0, 1, 2, 4, 5, -1, -1]


def test_scores_by_hand() -> None:
    base = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    answers = BaseAnswers(base, torch.tensor([2, 1, 2]), [2, 1])
    logprob, hits, mse, kl = answers.score(base)
    np.testing.assert_allclose(hits, [0.5, 1.0])
    np.testing.assert_allclose(mse, 0.0)
    np.testing.assert_allclose(kl, 0.0, atol=1e-6)
    expected = base.log_softmax(-1)[[0, 1, 2], [2, 1, 2]].numpy()
    np.testing.assert_allclose(logprob, [expected[:2].mean(), expected[2]], rtol=1e-6)
    grown = torch.cat([base + 1.0, torch.full((3, 1), -30.0)], dim=1)  # a token more, all logits shifted
    logprob, hits, mse, kl = answers.score(grown)
    np.testing.assert_allclose(mse, 1.0)
    np.testing.assert_allclose(kl, 0.0, atol=1e-6)
