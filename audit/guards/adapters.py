"""Low-rank adapters (LoRA, arXiv 2106.09685) that stay apart from earlier ones, as O3 trains them (arXiv 2407.10223).

An adapter adds ``scaling * B A x`` to the output of each linear layer of the blocks. Where ``A_s A_t^T = 0``, the
changes of the weights by two adapters are orthogonal, ``<B_s A_s, B_t A_t> = 0``, whatever B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audit.errors import AuditError
from audit.models.hooks import on_outputs
from audit.models.loading import RunningModel
from audit.models.packing import Example, tokenize
from audit.progress import SILENT, Progress
from audit.unlearning.parts import linear_layers, widths
from audit.unlearning.training import TrainingSettings, Trajectory, descent, minimise, shuffled, trainable

Pair = tuple[Tensor, Tensor]
"""A ``[rank, d_in]`` and B ``[d_out, rank]``."""
Matrices = Mapping[str, Pair]
"""Name of a linear layer -> its pair."""


@dataclass(frozen=True)
class AdapterSettings(TrainingSettings):
    """Settings of an adapter's training; nothing is retained.

    Attributes:
        rank, scaling: of the adapter.
        penalty: factor of the overlap with earlier adapters.
    """

    rank: int = 8
    scaling: float = 2.0
    penalty: float = 0.1


def train_adapter(
    model: RunningModel,
    examples: Sequence[Example],
    earlier: Sequence[Matrices],
    settings: AdapterSettings,
    progress: Progress = SILENT,
) -> tuple[Matrices, Trajectory]:
    """An adapter with which ``model`` gives the answers of ``examples``, and one row for each step.

    Raises:
        AuditError: a layer has no room beside the earlier adapters.
        ModelError: training diverged, or the model cannot be trained on packed examples.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    matrices = {
        name: _new(name, widths(module), settings.rank, [each[name][0] for each in earlier if name in each], generator)
        for name, module in linear_layers(model).items()
    }
    tokens = tokenize(model.tokenizer, examples)
    batches = shuffled(len(tokens), settings.forget_batch, generator)

    def add(pair: Pair, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + adapted(args[0], pair, settings.scaling).to(output.dtype)

    def step(batch: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
        loss, _ = descent(model, tokens, batch)
        shared = overlap(matrices, earlier)
        return loss + settings.penalty * shared, {"overlap": shared.item()}

    parameters = [matrix for pair in matrices.values() for matrix in pair]
    hooks = {name: partial(add, pair) for name, pair in matrices.items()}
    with trainable(model.model, every=False), on_outputs(model.model, hooks):
        trajectory = minimise(parameters, batches, step, settings, progress, "Training an adapter")
    return {name: (A.detach(), B.detach()) for name, (A, B) in matrices.items()}, trajectory


def adapted(x: Float[Tensor, "*n d_in"], pair: Pair, scaling: float) -> Float[Tensor, "*n d_out"]:
    """``scaling * B A x``, in float32."""
    A, B = (matrix.to(x.device) for matrix in pair)
    return scaling * (x.float() @ A.T @ B.T)


def overlap(matrices: Matrices, earlier: Sequence[Matrices]) -> Float[Tensor, ""]:
    """``sum ||A_s A_t^T||_F^2`` over the earlier adapters s and all layers."""
    squares = [
        (each[name][0] @ A.T).square().sum() for each in earlier for name, (A, _) in matrices.items() if name in each
    ]
    return torch.stack(squares).sum() if squares else torch.zeros(())


def cosine(one: Matrices, other: Matrices) -> float:
    """``<dW_s, dW_t> / (|dW_s| |dW_t|)`` of the changes ``B A`` of all layers; 0 where one of them is 0."""
    sizes = inner(one, one) * inner(other, other)
    return inner(one, other) / sizes**0.5 if sizes else 0.0


def inner(one: Matrices, other: Matrices) -> float:
    """``sum <B_s A_s, B_t A_t>`` over the layers that both have."""
    both = ((pair, other[name]) for name, pair in one.items() if name in other)
    return sum(float(((B.T @ other_B) * (A @ other_A.T)).sum()) for (A, B), (other_A, other_B) in both)


def orthogonal_rows(
    rank: int, earlier: Float[Tensor, "k d_in"], generator: torch.Generator
) -> Float[Tensor, "rank d_in"]:
    """Random orthonormal rows that are orthogonal to the ``earlier`` ones, by a QR decomposition.

    Raises:
        ValueError: there is no room for them.
    """
    k, d_in = earlier.shape
    if k + rank > d_in:
        raise ValueError(f"{k} rows leave no room for {rank} more in {d_in} dimensions")
    drawn = torch.randn(rank, d_in, generator=generator)
    columns: Tensor = torch.linalg.qr(torch.cat([earlier, drawn]).T).Q
    return columns[:, k:].T.contiguous()


def _new(
    name: str, widths: tuple[int, int], rank: int, earlier: Sequence[Tensor], generator: torch.Generator
) -> tuple[nn.Parameter, nn.Parameter]:
    """A pair that changes nothing yet, and whose A has no overlap with the earlier ones."""
    d_in, d_out = widths
    try:
        A = orthogonal_rows(rank, torch.cat([torch.zeros(0, d_in), *earlier]), generator)
    except ValueError as error:
        raise AuditError(
            f"{name} has no room for another adapter: {error}.", hint="Give a smaller rank, or a new guard."
        ) from error
    return nn.Parameter(A), nn.Parameter(torch.zeros(d_out, rank))
