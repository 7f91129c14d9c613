"""The tuned lens: an affine map of each layer's residual stream into the basis of the last one, then norm and head.

The idea is that of Belrose et al. (2023, arXiv 2303.08112), who train the maps to reproduce the model's predictions.
Here they are fitted in closed form, to reproduce the last residual stream by least squares (as in Din et al. 2023,
arXiv 2303.09435), on neutral text alone, so that they have not seen the facts. The penalty on the distance from the
logit lens and a shift is the one of ``PENALTIES`` that predicts held-out texts best.

What makes it wrong: few positions of text relative to the model's width; then the maps stay near a shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audit.errors import AuditError
from audit.models.hooks import by_layer, on_outputs
from audit.models.loading import RunningModel

PENALTIES: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 1000.0)
"""Relative to the mean eigenvalue of the residuals' covariance; the largest leaves nearly a shift."""
Streams = Float[Tensor, "n_layers n_positions d_model"]


@dataclass(frozen=True, eq=False)
class Translators:
    """The maps of all layers but the last, which needs none.

    They are kept as sums over the positions they were fitted on, which are fewer than a large model is wide.

    Attributes:
        centre, missing: mean residual of each layer, and its mean distance from the last one.
        positions: centred residuals at the positions of the text.
        weights: of each position in the map.
        penalty: the one that was chosen.
    """

    centre: Float[Tensor, "n_maps 1 d_model"]
    missing: Float[Tensor, "n_maps 1 d_model"]
    positions: Float[Tensor, "n_maps n_positions d_model"]
    weights: Float[Tensor, "n_maps n_positions d_model"]
    penalty: float

    def translate(self, residual: Float[Tensor, "n_layers n d_model"]) -> Float[Tensor, "n_layers n d_model"]:
        """The residual streams after each block in the last layer's basis."""
        similar = (residual[:-1] - self.centre) @ self.positions.transpose(1, 2)
        return torch.cat([residual[:-1] + self.missing + similar @ self.weights, residual[-1:]])


def translators(model: RunningModel, texts: Sequence[tuple[int, ...]]) -> Translators:
    """The maps fitted on ``texts``, given in tokens; without their first positions, whose norm is unlike others'.

    Raises:
        AuditError: fewer than two texts with more than one token.
    """
    read = [_streams(model, text)[:, 1:] for text in texts if len(text) > 1]
    if len(read) < 2:
        raise AuditError("a tuned lens needs two paragraphs of neutral text.")
    halves = torch.cat(read[::2], dim=1), torch.cat(read[1::2], dim=1)
    errors = dict.fromkeys(PENALTIES, 0.0)
    for fit, held in (halves, halves[::-1]):
        for each in _fitted(fit, PENALTIES):
            errors[each.penalty] += _error(each, held)
    (best,) = _fitted(torch.cat(halves, dim=1), [min(errors, key=lambda penalty: errors[penalty])])
    return best


def _error(found: Translators, held: Streams) -> float:
    """Mean squared error on ``held``, relative to the logit lens's, mean over the layers before the last."""
    after, before = ((each - held[-1]).square().mean(dim=(1, 2))[:-1] for each in (found.translate(held), held))
    return float((after / before.clamp_min(torch.finfo(before.dtype).tiny)).mean())


def _fitted(streams: Streams, penalties: Sequence[float]) -> Iterator[Translators]:
    """Ridge regression, in its dual form, of what is missing to the last layer on the centred residuals."""
    own = streams[:-1].double()
    missing = streams[-1].double() - own
    centre, mean = own.mean(dim=1, keepdim=True), missing.mean(dim=1, keepdim=True)
    positions = own - centre
    products = positions @ positions.transpose(1, 2)  # [n_maps, n_positions, n_positions]
    ridge = products.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None] / own.shape[-1]
    identity = torch.eye(products.shape[-1], dtype=torch.float64)
    for penalty in penalties:
        weights = torch.cholesky_solve(missing - mean, torch.linalg.cholesky(products + penalty * ridge * identity))
        yield Translators(centre.float(), mean.float(), positions.float(), weights.float(), penalty)


def _streams(model: RunningModel, text: tuple[int, ...]) -> Streams:
    """The residual stream after each block at every token, float32, on the CPU."""
    with torch.inference_mode(), _reading(model) as layers:
        model.model(input_ids=torch.tensor([text], device=model.device), use_cache=False)
    return torch.stack([layers[layer] for layer in sorted(layers)])


@contextmanager
def _reading(model: RunningModel) -> Iterator[dict[int, Tensor]]:
    found: dict[int, Tensor] = {}

    def take(layer: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        found[layer] = (output[0] if isinstance(output, tuple) else output).flatten(0, -2).float().cpu()

    layers = range(model.architecture.n_layers)
    with on_outputs(model.model, by_layer(model.architecture.block_module, layers, take)):
        yield found
