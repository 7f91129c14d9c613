"""Neuron Adjust: where a pre-activation looks like the skill's, it is reflected into what other queries give.

``N(mu_f, s_f)`` and ``N(mu_r, s_r)`` are a neuron's pre-activations under the skill's queries and under others. Where
``p_f(x) > p_r(x)``, ``x`` becomes ``mu_r - s_r (x - mu_f) / s_f`` with probability ``p_f / (p_f + p_r)``. The draw of
each element depends only on the seed, its layer, its neuron and its position in its sequence, so a cache, padding or
the rest of the batch change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from audit.guards.activity import Activity
from audit.guards.methods import FittedGuard, Guard, GuardState
from audit.guards.methods._neurons import NeuronOptions, fit_neurons
from audit.guards.sites import Sites, generator_at, past_length, positions
from audit.guards.splits import TokenizedSkill
from audit.models.hooks import Hook, on_inputs, on_outputs
from audit.models.loading import RunningModel
from audit.progress import Progress
from concepts.adjust import Moments, mean_difference, top_share


@dataclass(frozen=True)
class NeuronAdjustOptions(NeuronOptions):
    """``share`` of the neurons of ``layers`` is adjusted: those whose means differ most between skill and others.

    Attributes:
        absolute: choose by the size of the difference instead of forget minus retain (the paper's).
        post: choose by the key vectors instead of the pre-activations (the reference code's).
    """

    absolute: bool = False
    post: bool = False


@dataclass(frozen=True)
class NeuronAdjustGuard(Guard):
    """Adjusted neurons.

    Attributes:
        neurons: (layer, neuron) of each.
        forget, retain: moments of their pre-activations ``[k]``.
        share, layers: see ``NeuronAdjustOptions``.
        seed: of the draws.
    """

    neurons: Int[np.ndarray, "k 2"]
    forget: Moments
    retain: Moments
    share: float
    seed: int
    layers: tuple[int, ...] = ()
    _draws: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def apply(self, model: nn.Module, sites: Sites) -> ExitStack:
        at: list[Tensor] = []  # positions of the tokens of the current pass

        def begin(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            ids = kwargs.get("input_ids", inputs[0] if inputs else kwargs.get("inputs_embeds"))
            assert ids is not None
            at[:] = [positions(kwargs, ids.shape[1], past_length(kwargs))]

        layers = np.unique(self.neurons[:, 0]).tolist()
        hooks = {sites.pre[layer]: self._hook(layer, sites.first[layer], at) for layer in layers}
        with ExitStack() as stack:
            stack.enter_context(on_inputs(model, {"": begin}, with_kwargs=True))
            stack.enter_context(on_outputs(model, hooks))
            return stack.pop_all()

    def _hook(self, layer: int, first: int, at: list[Tensor]) -> Hook:
        own = self.neurons[:, 0] == layer
        columns = torch.from_numpy(self.neurons[own, 1] + first)
        parts = (self.forget.mean, self.forget.std, self.retain.mean, self.retain.std)
        moments = torch.from_numpy(np.stack([part[own] for part in parts]).astype(np.float32))

        def adjust(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = output[..., columns].float()
            if x.dim() == 2:  # OPT's FFN sees all tokens of a batch as one row
                x = x.reshape(-1, at[0].shape[1], len(columns))
            mu_f, s_f, mu_r, s_r = moments.to(x.device)
            z_f, z_r = (x - mu_f) / s_f, (x - mu_r) / s_r
            chance = torch.sigmoid(0.5 * (z_r**2 - z_f**2) + torch.log(s_r) - torch.log(s_f))  # p_f / (p_f + p_r)
            draws = self._drawn(layer, at[0], int(own.sum())).to(x.device)
            moved = torch.where((chance > 0.5) & (draws < chance), mu_r - s_r * z_f, x)
            changed = output.clone()
            changed[..., columns] = moved.reshape(*output.shape[:-1], len(columns)).to(output.dtype)
            return changed

        return adjust

    def _drawn(self, layer: int, at: Tensor, count: int) -> Tensor:
        """Uniform numbers ``[*at.shape, count]``."""
        for position in set(at.flatten().tolist()):
            if (layer, position) not in self._draws:
                generator = generator_at(self.seed, position, layer)
                self._draws[layer, position] = generator.random(count, dtype=np.float32)
        rows = np.stack([self._draws[layer, position] for position in at.flatten().tolist()])
        return torch.from_numpy(rows.reshape(*at.shape, count))

    def matches(self, sites: Sites) -> bool:
        moments = (self.forget.mean, self.forget.std, self.retain.mean, self.retain.std)
        return sites.contain(self.neurons) and all(part.shape == (len(self.neurons),) for part in moments)

    def save(self) -> GuardState:
        return GuardState(
            {"share": self.share, "seed": self.seed, "layers": list(self.layers)},
            {
                "neurons": self.neurons,
                "forget.mean": self.forget.mean,
                "forget.std": self.forget.std,
                "retain.mean": self.retain.mean,
                "retain.std": self.retain.std,
            },
        )

    @classmethod
    def load(cls, state: GuardState) -> Self:
        arrays, settings = state.arrays, state.settings
        forget, retain = (Moments(arrays[f"{name}.mean"], arrays[f"{name}.std"]) for name in ("forget", "retain"))
        return cls(arrays["neurons"], forget, retain, **{**settings, "layers": tuple(settings.get("layers", ()))})


TITLE = "Neuron Adjust"
OPTIONS = NeuronAdjustOptions
GUARD = NeuronAdjustGuard


def choose(forget: Activity, retain: Activity, options: NeuronAdjustOptions, seed: int) -> NeuronAdjustGuard:
    """Adjust the neurons whose means differ most."""
    compared = (forget.keys, retain.keys) if options.post else (forget.pre, retain.pre)
    scores = mean_difference(*compared, absolute=options.absolute)
    neurons = top_share(scores, options.share, options.layers)
    layer, neuron = neurons.T
    of_forget, of_retain = (
        Moments(activity.pre.mean[layer, neuron], activity.pre.std[layer, neuron]) for activity in (forget, retain)
    )
    return NeuronAdjustGuard(neurons, of_forget, of_retain, options.share, seed, tuple(options.layers))


def fit(
    model: RunningModel, skills: Sequence[TokenizedSkill], options: NeuronAdjustOptions, seed: int, progress: Progress
) -> FittedGuard:
    return fit_neurons(model, skills, partial(choose, options=options, seed=seed), seed, progress)
