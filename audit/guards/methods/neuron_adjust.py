"""Neuron Adjust: where a pre-activation looks like the skill's, it is reflected into what other queries give.

``N(mu_f, s_f)`` and ``N(mu_r, s_r)`` are a neuron's pre-activations under the skill's queries and under others. Where
``p_f(x) > p_r(x)``, ``x`` becomes ``mu_r - s_r (x - mu_f) / s_f`` with probability ``p_f / (p_f + p_r)``. Each element
has a draw of its own, tied to its layer, neuron and position in its sequence, so that a cache, padding or the rest of
the batch change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from audit.guards.activity import Activity
from audit.guards.sites import Sites, past_length, positions
from audit.models.hooks import on_inputs, on_outputs
from concepts.adjust import Moments, mean_difference, top_share

TITLE = "Neuron Adjust"


def fit(
    forget: Activity,
    retain: Activity,
    share: float,
    seed: int = 0,
    absolute: bool = False,
    post: bool = False,
    layers: Sequence[int] = (),
) -> Guard:
    """Adjust the ``share`` of the neurons of ``layers``, all if empty, whose means differ most.

    Args:
        absolute: by the size of the difference instead of forget minus retain (the paper's).
        post: choose by the key vectors instead of the pre-activations (the reference code's).
    """
    of = (forget.keys, retain.keys) if post else (forget.pre, retain.pre)
    neurons = top_share(mean_difference(*of, absolute=absolute), share, layers)
    layer, neuron = neurons.T
    kept = [side.pre.mean[layer, neuron] for side in (forget, retain)]
    spreads = [side.pre.std[layer, neuron] for side in (forget, retain)]
    return Guard(neurons, Moments(kept[0], spreads[0]), Moments(kept[1], spreads[1]), share, seed, tuple(layers))


@dataclass(frozen=True)
class Guard:
    """``neurons`` are (layer, neuron) ``[k, 2]`` of ``layers``; ``forget`` and ``retain`` their moments ``[k]``."""

    METHOD: ClassVar[str] = "neuron-adjust"
    neurons: np.ndarray
    forget: Moments
    retain: Moments
    share: float
    seed: int
    layers: tuple[int, ...] = ()
    _draws: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def attach(self, model: torch.nn.Module, sites: Sites) -> ExitStack:
        at: list[Tensor] = []  # positions of the pass under way

        def begin(module: torch.nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            ids = kwargs.get("input_ids", inputs[0] if inputs else kwargs.get("inputs_embeds"))
            assert ids is not None
            at[:] = [positions(kwargs, ids.shape[1], past_length(kwargs))]

        layers = np.unique(self.neurons[:, 0]).tolist()
        hooks = {sites.pre[layer]: self._hook(layer, sites.first[layer], at) for layer in layers}
        with ExitStack() as stack:
            stack.enter_context(on_inputs(model, {"": begin}, with_kwargs=True))
            stack.enter_context(on_outputs(model, hooks))
            return stack.pop_all()

    def _hook(self, layer: int, first: int, at: list[Tensor]) -> Any:
        own = self.neurons[:, 0] == layer
        columns = torch.from_numpy(self.neurons[own, 1] + first)
        mu_f, s_f, mu_r, s_r = (
            torch.from_numpy(part[own].astype(np.float32))
            for part in (self.forget.mean, self.forget.std, self.retain.mean, self.retain.std)
        )

        def adjust(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = output[..., columns].float()
            if x.dim() == 2:  # OPT's FFN sees all tokens of a batch as one row
                x = x.reshape(-1, at[0].shape[1], len(columns))
            to_f, to_r = (x - mu_f) / s_f, (x - mu_r) / s_r
            chance = torch.sigmoid(0.5 * (to_r**2 - to_f**2) + torch.log(s_r) - torch.log(s_f))
            draws = self._drawn(layer, at[0], int(own.sum()))
            moved = torch.where((chance > 0.5) & (draws < chance), mu_r - s_r * to_f, x)
            changed = output.clone()
            changed[..., columns] = moved.reshape(*output.shape[:-1], len(columns)).to(output.dtype)
            return changed

        return adjust

    def _drawn(self, layer: int, at: Tensor, count: int) -> Tensor:
        """Uniform numbers ``[*at.shape, count]``."""
        for position in set(at.flatten().tolist()):
            if (layer, position) not in self._draws:
                counter = np.array([position, layer, 0, 0], dtype=np.uint64)
                generator = np.random.Generator(np.random.Philox(key=self.seed, counter=counter))
                self._draws[layer, position] = generator.random(count, dtype=np.float32)
        rows = np.stack([self._draws[layer, position] for position in at.flatten().tolist()])
        return torch.from_numpy(rows.reshape(*at.shape, count))

    def fits(self, sites: Sites) -> bool:
        moments = (self.forget.mean, self.forget.std, self.retain.mean, self.retain.std)
        return sites.have(self.neurons) and all(found.shape == (len(self.neurons),) for found in moments)

    def settings(self) -> dict[str, Any]:
        return {"share": self.share, "seed": self.seed, "layers": list(self.layers)}

    def arrays(self) -> dict[str, np.ndarray]:
        found = {"neurons": self.neurons}
        for name, moments in (("forget", self.forget), ("retain", self.retain)):
            found |= {f"{name}.mean": moments.mean, f"{name}.std": moments.std}
        return found

    @classmethod
    def load(cls, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Guard:
        forget, retain = (Moments(arrays[f"{name}.mean"], arrays[f"{name}.std"]) for name in ("forget", "retain"))
        return cls(arrays["neurons"], forget, retain, **{**settings, "layers": tuple(settings.get("layers", ()))})
