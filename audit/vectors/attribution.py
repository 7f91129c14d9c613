"""Attribution: how much each neuron, or each direction of the stream, contributes to answers, by backward passes.

The estimate of neuron ``j`` is the sum over positions of ``k_j * d log p / d k_j``: to first order, the fall of the
answer's mean log-probability when the neuron's value vector is set to zero. Plain gradients are wrong where functions
saturate, so two other rules are used; ablation (``audit.vectors.effects``) gives the exact number. For directions,
integrated gradients add up to what changes if all of them are set to their mean elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audit.errors import AuditError
from audit.models.hooks import BlockInputs, by_layer, on_inputs, on_outputs, recording_block_inputs, starting_at
from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, answer_logprobs
from audit.models.scoring import WITH_GRADIENTS, answer_means, packed
from audit.progress import SILENT, Progress

POINTS = 5
"""Points of the integration path; 20 give the same ranking."""
DIRECTION_POINTS = 50
"""The same for directions, so that contributions add up within 1 %."""
COLLINEAR = 1e6
"""Condition number from which on directions count as linearly dependent: float32 has seven digits."""
TINY = 1e-12
"""Inputs below this size have a quotient of rounding errors; their gradient is set to zero."""

Attribution = Float[Tensor, "n_layers d_mlp"]


def relp(model: RunningModel, questions: Sequence[Example], progress: Progress = SILENT) -> Attribution:
    """Every neuron's estimate by relevance propagation (RelP, arXiv 2508.21258), mean over ``questions``.

    One backward pass through a linearised model: the scale of a norm is constant, an activation ``f(x)`` is
    ``x * (f(x) / x)`` with a constant quotient, and each factor of a product of two streams gets half of the gradient.
    The attention pattern keeps its gradient.
    """
    rows = [*packed(model, questions, WITH_GRADIENTS)]
    total = torch.zeros(model.architecture.n_layers, model.architecture.d_mlp)
    for done, row in enumerate(rows):
        progress.step("Attributing answers to neurons", done, len(rows))
        with torch.enable_grad(), _linearised(model), _scaled_keys(model, range(len(total)), 1.0) as keys:
            torch.autograd.backward(_mean_answer(model, row))
        for layer, key in keys.items():
            total[layer] += _products(key)
    return total / len(questions)


def integrated_gradients(
    model: RunningModel,
    questions: Sequence[Example],
    layers: Collection[int],
    points: int = POINTS,
    progress: Progress = SILENT,
) -> Attribution:
    """The neurons' estimates by integrated gradients along the path from zero to the layer's key vector.

    A layer's estimates add up to the effect of zeroing the whole layer, unless a norm follows the FFN (Gemma 2 and 3,
    OLMo 2): it removes the factor by which the path scales the keys. Layers not in ``layers`` are NaN.

    Args:
        points: midpoints of the path.
    """
    rows = [*packed(model, questions, WITH_GRADIENTS)]
    total = torch.full((model.architecture.n_layers, model.architecture.d_mlp), torch.nan)
    kept = [_entering(model, row, min(layers)) for row in rows]
    for done, layer in enumerate(sorted(layers)):
        progress.step("Attributing answers to neurons, layer by layer", done, len(layers))
        total[layer] = 0.0
        for row, entering in zip(rows, kept, strict=True):
            for point in range(points):
                share = (point + 0.5) / points
                with (
                    torch.enable_grad(),
                    starting_at(model, layer, entering),
                    _scaled_keys(model, [layer], share) as keys,
                ):
                    torch.autograd.backward(_mean_answer(model, row))
                total[layer] += _products(keys[layer]) / (share * points)
    return total / len(questions)


@dataclass(frozen=True)
class ConceptAttribution:
    """What the coordinates of some directions contribute to answers.

    Attributes:
        contributions: to the mean log-probability of an answer's tokens, in nats, mean over questions.
        effect: its fall if all coordinates are set to the baseline, to which the contributions add up.
        condition: condition number of the directions at length 1; if it is large, similar directions share what belongs
            to both as rounding will have it.
    """

    contributions: Float[Tensor, " k"]
    effect: float
    condition: float


def concept_attribution(
    model: RunningModel,
    questions: Sequence[Example],
    others: Sequence[Example],
    layer: int,
    directions: Float[Tensor, "k d_model"],
    points: int = DIRECTION_POINTS,
    progress: Progress = SILENT,
) -> ConceptAttribution:
    """Integrated gradients (arXiv 1703.01365) on the coordinates of concepts (as in arXiv 2405.15662).

    Coordinates ``c`` are those of the least-squares fit ``c @ directions`` of the residual stream after ``layer`` where
    answers' tokens are predicted; what no direction explains stays as it is. The path begins at their mean over
    ``others``.

    Raises:
        AuditError: the directions are linearly dependent, or ``questions`` have the coordinates of ``others``.
    """
    condition = float(torch.linalg.cond(torch.nn.functional.normalize(directions.double(), dim=1)))
    if not condition < COLLINEAR:
        raise AuditError(
            f"the {len(directions)} directions are linearly dependent (condition number {condition:.2g}).",
            hint="Leave out those that others make up.",
        )
    inverse = torch.linalg.pinv(directions.double()).float()
    found = [_coordinates(model, row, layer, inverse)[0] for row in packed(model, others, WITH_GRADIENTS)]
    baseline = torch.cat(found).mean(dim=0)
    total, effect, moved = torch.zeros(len(directions)), 0.0, False
    rows = [*packed(model, questions, WITH_GRADIENTS)]
    for done, row in enumerate(rows):
        progress.step("Attributing answers to directions", done, len(rows))
        point, entering = _coordinates(model, row, layer, inverse)
        answer = partial(_answer_at, model, row, layer, entering, directions.float(), point)
        start = baseline.expand_as(point)
        total += path_integral(answer, point, start, points).sum(dim=0)
        with torch.no_grad():
            effect += (answer(point) - answer(start)).item()
        moved |= not torch.equal(point, start)
    if not moved:
        raise AuditError("the questions have the coordinates of the others.", hint="Compare with other questions.")
    return ConceptAttribution(total / len(questions), effect / len(questions), condition)


def path_integral(
    function: Callable[[Tensor], Float[Tensor, ""]],
    point: Float[Tensor, "*shape"],
    baseline: Float[Tensor, "*shape"],
    points: int,
) -> Float[Tensor, "*shape"]:
    """Integrated gradients of ``function`` along the line from ``baseline`` to ``point``, at midpoints."""
    total = torch.zeros_like(point)
    for number in range(points):
        between = torch.lerp(baseline, point, (number + 0.5) / points).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(function(between), between)
        total += gradient
    return (point - baseline) * total / points


def _coordinates(
    model: RunningModel, row: Pack, layer: int, inverse: Float[Tensor, "d_model k"]
) -> tuple[Float[Tensor, "m k"], BlockInputs]:
    """Coordinates of the stream after ``layer`` where answers are predicted, and what enters the block above."""
    with torch.no_grad(), recording_block_inputs(model, [layer + 1]) as entering:
        answer_logprobs(model, row)
    return entering.entering[layer + 1][0].float().cpu()[row.scored] @ inverse, entering


def _answer_at(
    model: RunningModel,
    row: Pack,
    layer: int,
    entering: BlockInputs,
    directions: Float[Tensor, "k d_model"],
    point: Float[Tensor, "m k"],
    coordinates: Float[Tensor, "m k"],
) -> Float[Tensor, ""]:
    """``_mean_answer`` with ``coordinates`` in place of ``point``."""
    stream = entering.entering[layer + 1].clone()
    change = ((coordinates - point) @ directions).to(stream.device, stream.dtype)
    places = row.scored.to(stream.device)
    stream[0, places] = stream[0, places] + change
    with starting_at(model, layer + 1, BlockInputs({layer + 1: stream}, entering.tuples)):
        return _mean_answer(model, row)


def _entering(model: RunningModel, row: Pack, lowest: int) -> BlockInputs:
    layers = range(lowest, model.architecture.n_layers)
    with torch.no_grad(), recording_block_inputs(model, layers) as kept:
        answer_logprobs(model, row)
    return kept


def _mean_answer(model: RunningModel, row: Pack) -> Float[Tensor, ""]:
    """Sum over the row's questions of the mean log-probability of their answers' tokens."""
    return answer_means(row, answer_logprobs(model, row)).sum()


def _products(key: Float[Tensor, "*positions d_mlp"]) -> Float[Tensor, " d_mlp"]:
    """``k * dk`` summed over positions."""
    assert key.grad is not None
    return (key.detach() * key.grad).flatten(0, -2).sum(dim=0).float().cpu()  # OPT's FFN sees all rows as one


@contextmanager
def _scaled_keys(model: RunningModel, layers: Collection[int], share: float) -> Iterator[dict[int, Tensor]]:
    """The key vectors of ``layers`` in the pass that runs inside, scaled by ``share``, with their gradients.

    With several layers, gradients continue to the layers below; half of them in a gated FFN, whose keys are products of
    two streams.
    """
    keys: dict[int, Tensor] = {}
    passing = len(layers) > 1

    def watch(layer: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        key = inputs[0] if passing else share * inputs[0].detach()
        if passing and model.architecture.gated:
            key = key / 2 + key.detach() / 2
        if not key.requires_grad:
            key.requires_grad_()
        else:
            key.retain_grad()
        keys[layer] = key
        return (key, *inputs[1:])

    with on_inputs(model.model, by_layer(model.architecture.out_module, layers, watch), once=True):
        yield keys


def _linearised(model: RunningModel) -> ExitStack:
    """Norms and activations with a constant scale; their values stay the same."""
    embedding = model.model.get_input_embeddings()
    modules = [*model.model.named_modules()]
    rules = {name: rule for name, module in modules if (rule := _rule(module)) is not None}
    (start,) = (name for name, module in modules if module is embedding)
    return on_outputs(model.model, {start: _requiring_grad, **rules})


def _requiring_grad(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.detach().requires_grad_()


def _rule(module: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor] | None:
    name, origin = type(module).__name__, type(module).__module__
    if name.endswith("LayerNorm"):
        return _centred_norm
    if name.endswith("RMSNorm"):
        return _proportional
    if origin in ("transformers.activations", "torch.nn.modules.activation"):
        return _proportional
    return None


def _proportional(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """``x * (f(x) / x)`` with the quotient constant."""
    return _scaled(inputs[0], output)


def _centred_norm(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The same for a norm that subtracts the mean and may add a bias."""
    centred = inputs[0] - inputs[0].mean(dim=-1, keepdim=True)
    bias = getattr(module, "bias", None)
    return _scaled(centred, output) if bias is None else _scaled(centred, output - bias) + bias


def _scaled(x: Float[Tensor, "*shape"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``x * (value / x)`` with a constant quotient; equal to ``value``."""
    quotient = torch.where(x.abs() > TINY, value / x, 0.0).detach()
    return x * quotient + (value - x * quotient).detach()
