"""Forward passes of one model over the same questions, as they are or with something put in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audit.errors import ModelError
from audit.models.forward import Row, padded, prefix_cache, reading_head_at, shared_prefix
from audit.models.hooks import BlockInputs, recording_block_inputs
from audit.models.key_value_cache import repeated
from audit.models.loading import RunningModel
from audit.patching.sites import Activations, Site, recording

States = tuple[Float[Tensor, "n_layers _ d_model"], ...]
"""For each question of a batch the residual stream after each block, at the positions that predict its answer."""


@dataclass(frozen=True)
class Scores:
    """The answers of one run, for each question (the last axis).

    Attributes:
        logprob: mean log-probability of the answer's tokens, teacher forced, in nats.
        hits: share of the answer's tokens that are the most probable ones.
        mse: mean squared difference of the logits from the base's, over the vocabulary and the answer's tokens.
        kl: mean Kullback-Leibler divergence from the base's distribution over the answer's tokens, in nats.
    """

    logprob: Float[np.ndarray, "*runs n"]
    hits: Float[np.ndarray, "*runs n"]
    mse: Float[np.ndarray, "*runs n"]
    kl: Float[np.ndarray, "*runs n"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "four *runs n"]) -> Scores:
        return cls(*values)

    def select(self, chosen: np.ndarray) -> Scores:
        """The scores of some questions."""
        return Scores(*(each[..., chosen] for each in (self.logprob, self.hits, self.mse, self.kl)))

    def layer(self, layer: int) -> Scores:
        """The scores of one run of several."""
        return Scores(*(each[layer] for each in (self.logprob, self.hits, self.mse, self.kl)))

    @property
    def likelihood(self) -> Float[np.ndarray, "*runs n"]:
        """Geometric mean of the probabilities of the answer's tokens."""
        values: np.ndarray = np.exp(self.logprob)
        return values


@dataclass(frozen=True, eq=False)
class Recorded:
    """One batch as a model ran it.

    Attributes:
        inputs: residual stream before each block and before the final norm.
        activations: see ``recording``.
        logits: at the positions that predict the answers, question by question.
    """

    inputs: BlockInputs
    states: States
    activations: Activations
    logits: Float[Tensor, "n_positions d_vocab"]


class Run:
    """One model on the same rows in the same batches; what all rows begin with is computed once.

    Attributes:
        shared: number of tokens that all rows begin with; nothing is put in there.
        passes: number of forward passes of one question so far; a pass through some of the blocks counts as their
            share.
    """

    def __init__(self, model: RunningModel, rows: Sequence[Row], batches: Sequence[Sequence[int]]) -> None:
        self.model, self.rows, self.batches = model, rows, batches
        beginning = shared_prefix([row.ids[: row.last] for row in rows])
        self.shared = len(beginning)
        self.passes = 0.0
        with torch.inference_mode():
            self._cache = prefix_cache(model, beginning)

    def counts(self, batch: Sequence[int]) -> list[int]:
        """Number of answer tokens of each row of the batch."""
        return [len(self.rows[index].positions) for index in batch]

    def targets(self, batch: Sequence[int]) -> Int[Tensor, " n_positions"]:
        """The answers' tokens, row by row."""
        return torch.tensor([token for index in batch for token in self.rows[index].ids[self.rows[index].last + 1 :]])

    def places(self, batch: Sequence[int]) -> Int[Tensor, "2 n_positions"]:
        """Row of the batch and position after the common beginning, of everything that predicts an answer's token."""
        return torch.tensor(
            [
                (number, position - self.shared)
                for number, index in enumerate(batch)
                for position in self.rows[index].positions
            ]
        ).T

    def forward(self, batch: Sequence[int], share: float = 1.0) -> Float[Tensor, "n_positions d_vocab"]:
        """Logits at the positions that predict the answers, in float32 on the CPU.

        Args:
            share: share of the blocks that the hooks in force let run.

        Raises:
            ModelError: they are not finite.
        """
        rows, positions = self.places(batch)
        arguments = padded(self.model, [self.rows[index].ids[self.shared :] for index in batch], self.shared)
        length = arguments["input_ids"].shape[1]
        with torch.inference_mode(), reading_head_at(self.model, rows * length + positions):
            cache = repeated(self._cache, len(batch))
            output = self.model.model(**arguments, past_key_values=cache, use_cache=True)
        logits: Tensor = output.logits[0].float().cpu()
        if not torch.isfinite(logits).all():
            raise ModelError("the patched model's output is not a finite number.", hint="Run it with --dtype float32.")
        self.passes += share * len(batch)
        return logits

    def record(self, batch: Sequence[int], sites: Mapping[str, Site] | None = None) -> Recorded:
        """One pass as the model is.

        Args:
            sites: activations to keep.
        """
        n_layers = self.model.architecture.n_layers
        with (
            recording_block_inputs(self.model, range(n_layers + 1)) as inputs,
            recording(self.model, sites or {}) as activations,
        ):
            logits = self.forward(batch)
        rows, positions = self.places(batch)
        after = torch.stack([inputs.entering[layer + 1][rows, positions].cpu() for layer in range(n_layers)])
        return Recorded(inputs, torch.split(after, self.counts(batch), dim=1), activations, logits)


@dataclass(frozen=True, eq=False)
class BaseAnswers:
    """The base's logits where it predicts the answers of one batch, with which other runs are compared.

    Attributes:
        targets: the answers' tokens.
        counts: number of them in each question.
    """

    logits: Float[Tensor, "n_positions d_vocab"]
    targets: Int[Tensor, " n_positions"]
    counts: Sequence[int]

    @cached_property
    def logprobs(self) -> Float[Tensor, "n_positions d_vocab"]:
        return self.logits.log_softmax(-1)

    def score(self, logits: Float[Tensor, "n_positions d_vocab"]) -> Float[np.ndarray, "four n"]:
        """The fields of ``Scores`` for each question; where a vocabulary has grown, the tokens of both count."""
        size = min(logits.shape[-1], self.logits.shape[-1])
        logprobs = logits[:, :size].log_softmax(-1)
        before = self.logprobs[:, :size]
        values = torch.stack(
            [
                logprobs.gather(1, self.targets[:, None])[:, 0],
                (logits.argmax(-1) == self.targets).float(),
                (logits[:, :size] - self.logits[:, :size]).square().mean(-1),
                (before.exp() * (before - logprobs)).sum(-1),
            ]
        )
        means = [each.mean(-1) for each in torch.split(values, list(self.counts), dim=1)]
        return torch.stack(means, dim=1).double().numpy()
