"""What the guards share that read a prompt first, and then decide how its sequence is run.

The prompt's last-token keys are read by a pass of its own before the pass that answers it: hooks that others put on the
model's modules see that pass too. Sequences of a batch are decided one by one, and a decision to act holds to the end
of its sequence. A prompt that is one token longer than the one before looks like its next pass without a cache: it is
read as well, unless ``use_cache=False`` says that it is that. Beam search is not guarded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from audit.guards.methods import Guard
from audit.guards.passes import Passes
from audit.guards.regions import spread
from audit.guards.sites import Sites
from audit.models.hooks import Hook, on_inputs, on_outputs
from audit.models.keys import collect, last_keys
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.models.scoring import AnswerScores, score_after_prompts
from audit.progress import SILENT, Progress

DEPTHS: Final = (0.4, 0.8)
"""Relative depths between which keys are read: there the last token of a question says most of what it is about."""

Keys = Float[np.ndarray, "n n_read d_mlp"]
"""Last-token keys at the layers that a guard reads."""


class PromptGuard(Guard):
    """A guard that decides by a prompt's keys.

    Attributes:
        layers: whose keys it reads.
    """

    layers: Int[np.ndarray, " n_read"]

    @abstractmethod
    def decide(self, keys: Keys) -> Float[np.ndarray, "n n_parts"]:
        """How much each part of the guard acts on each prompt's sequence; where all are 0 it is left as it is."""

    @abstractmethod
    def effects(self, model: nn.Module, prompts: GuardedPrompts) -> Mapping[str, Hook]:
        """Hooks on outputs of the model's modules by which the guard acts on the sequences of ``prompts``."""

    def apply(self, model: nn.Module, sites: Sites) -> ExitStack:
        prompts = GuardedPrompts(self, sites)
        with ExitStack() as stack:
            stack.enter_context(on_inputs(model, {"": prompts.begin_pass}, with_kwargs=True))
            stack.enter_context(on_outputs(model, {**self.effects(model, prompts), "": prompts.end_pass}))
            return stack.pop_all()

    def score(self, model: RunningModel, examples: Sequence[Example]) -> AnswerScores:
        return score_after_prompts(model, examples)

    def reads(self, sites: Sites) -> bool:
        """Whether its layers exist in a model with these ``sites``."""
        return bool(len(self.layers)) and all(0 <= int(layer) < len(sites.out) for layer in self.layers)


class GuardedPrompts:
    """The prompts of a model's current sequences.

    Attributes:
        passes: those through the model.
        mask: of the pass that read them.
        amounts: how much each part of the guard acts on each sequence.
        acts: whether it acts on any, now: never while the prompts are read, or between passes.
    """

    def __init__(self, guard: PromptGuard, sites: Sites) -> None:
        self.passes = Passes()
        self.mask = self.passes.mask
        self.amounts: Float[np.ndarray, "n n_parts"] = np.zeros((0, 0))
        self.acts = False
        self._guard, self._sites = guard, sites

    def begin_pass(self, model: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Decide, if this pass reads prompts."""
        self.acts = False
        self.passes.begin(inputs, kwargs)
        if self.passes.reads_prompt:
            self.mask = self.passes.mask
            self.amounts = self._guard.decide(self._read(model, kwargs))
        elif not self.passes.past and kwargs.get("use_cache") is not False:
            self.amounts = np.maximum(self.amounts, self._guard.decide(self._read(model, kwargs)))
        self.acts = bool(self.amounts.any())

    def end_pass(self, model: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.acts = False

    def _read(self, model: nn.Module, kwargs: Mapping[str, Any]) -> Keys:
        keys: dict[int, Tensor] = {}

        def take(layer: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
            states = args[0].reshape(*self.passes.ids.shape, -1)  # OPT's FFN sees all rows as one
            keys[layer] = last_keys(states, self.passes.mask)

        layers = [int(layer) for layer in self._guard.layers]
        given = {name: kwargs[name] for name in ("attention_mask", "position_ids") if kwargs.get(name) is not None}
        with torch.no_grad(), on_inputs(model, {self._sites.out[at]: partial(take, at) for at in layers}, once=True):
            model.base_model(input_ids=self.passes.ids, use_cache=False, **given)  # type: ignore[operator]
        read: np.ndarray = torch.stack([keys[layer] for layer in layers], dim=1).half().cpu().numpy()
        return read


def reading_layers(n_layers: int, layers: Sequence[int]) -> Int[np.ndarray, " n_read"]:
    """``layers``; if empty, some at equal distances in the middle of the model."""
    return np.array(sorted(layers) or spread(*DEPTHS, n_layers))


def read_prompts(
    model: RunningModel, texts: Iterable[str], layers: Int[np.ndarray, " n_read"], progress: Progress = SILENT
) -> Keys:
    """The keys of the texts that fit the model's context, in float16.

    Raises:
        ModelError: a text without a token, or a key that is not a finite number.
    """
    ids = [tuple(model.tokenizer(text)["input_ids"]) for text in texts]
    return collect(model, ids, progress=progress).rows[:, layers]
