"""Key Space Detection: a query whose keys lie in the skill's region is not answered.

The decision falls once, when the prompt has been read: every later token of that sequence is the refusal's, then the
end token. Sequences of a batch are decided one by one. Greedy decoding and sampling are guarded; beams are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from audit.guards.sites import Sites, past_length
from audit.models.hooks import on_inputs, on_outputs
from audit.models.keys import last_keys, last_places, mean_keys
from concepts.regions import Hypercube, Region, Vote

TITLE = "Key Space Detection"
REFUSAL = "I cannot help with that."
REGIONS = {"vote": Vote, "hypercube": Hypercube}


@dataclass(frozen=True)
class Guard:
    """``refusal`` are the token ids that an abstaining model writes; ``end`` ends them."""

    METHOD: ClassVar[str] = "key-space"
    region: Region
    refusal: tuple[int, ...]
    end: int | None

    def attach(self, model: torch.nn.Module, sites: Sites) -> ExitStack:
        watch = _Watch(self, sites)
        layers = sorted({reading % len(sites.out) for reading in self.readings})
        with ExitStack() as stack:
            stack.enter_context(on_inputs(model, {"": watch.begin}, with_kwargs=True))
            stack.enter_context(on_inputs(model, {sites.out[layer]: partial(watch.take, layer) for layer in layers}))
            stack.enter_context(on_outputs(model, {"": watch.answer}, with_kwargs=True))
            return stack.pop_all()

    @property
    def readings(self) -> list[int]:
        """What the region reads: a layer's number for its last-token keys, ``n_layers`` more for its mean keys."""
        found = self.region.layers.tolist() if isinstance(self.region, Vote) else [self.region.layer]  # type: ignore[attr-defined]
        return [int(reading) for reading in found]

    def fits(self, sites: Sites) -> bool:
        there = all(0 <= reading < 2 * len(sites.out) for reading in self.readings)
        return there and self.region.shaped(sites.d_mlp)

    def settings(self) -> dict[str, Any]:
        kind = next(name for name, region in REGIONS.items() if isinstance(self.region, region))
        return {"region": kind, "refusal": list(self.refusal), "end": self.end}

    def arrays(self) -> dict[str, np.ndarray]:
        return self.region.to_arrays()

    @classmethod
    def load(cls, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Guard:
        region: Region = REGIONS[settings["region"]].from_arrays(arrays)  # type: ignore[attr-defined]
        return cls(region, tuple(map(int, settings["refusal"])), settings["end"])


class _Watch:
    """What a guard remembers from one pass to the next: which sequences abstain, and how far their refusal has come."""

    def __init__(self, guard: Guard, sites: Sites) -> None:
        self.guard, self.sites = guard, sites
        self.abstaining = np.zeros(0, dtype=bool)
        self.step = 0
        self.deciding = False
        self.mask = torch.zeros(0, 0, dtype=torch.long)
        self.ids: Tensor | None = None
        self.keys: dict[int, np.ndarray] = {}

    def begin(self, module: torch.nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a pass: does it read a prompt, or write on?"""
        ids = kwargs.get("input_ids", inputs[0] if inputs else None)
        assert ids is not None, "a guarded model reads token ids"
        self.deciding = not (past_length(kwargs) > 0 or self._goes_on(ids))
        self.step = 0 if self.deciding else self.step + 1
        self.ids = ids
        mask = kwargs.get("attention_mask")
        self.mask = torch.ones_like(ids) if mask is None or mask.dim() != 2 else mask[:, -ids.shape[1] :]

    def _goes_on(self, ids: Tensor) -> bool:
        """Without a cache every pass brings the whole sequence: the last one's, and one token more."""
        before = self.ids
        if before is None or before.shape[0] != ids.shape[0] or ids.shape[1] != before.shape[1] + 1:
            return False
        return torch.equal(ids[:, :-1], before)

    def take(self, layer: int, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.deciding:
            assert self.ids is not None
            keys = inputs[0].reshape(*self.ids.shape, -1)
            for pool, pooled in enumerate((last_keys, mean_keys)):
                reading = layer + pool * len(self.sites.out)
                if reading in self.guard.readings:
                    self.keys[reading] = pooled(keys.detach(), self.mask).half().cpu().numpy()

    def answer(self, module: torch.nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """After a pass: the next token of those that abstain is the refusal's."""
        if self.deciding:
            keys = np.zeros((len(self.mask), 2 * len(self.sites.out), self.sites.d_mlp), dtype=np.float16)
            for reading, rows in self.keys.items():
                keys[:, reading] = rows
            self.abstaining = self.guard.region.inside(keys)
            self.keys.clear()
        if not self.abstaining.any():
            return output
        logits = output.logits.clone()
        chosen = torch.from_numpy(np.flatnonzero(self.abstaining)).to(logits.device)
        at = torch.full_like(chosen, logits.shape[1] - 1)
        if self.deciding and logits.shape[1] > 1:  # padded on the right, the last token is not the last column
            at = last_places(self.mask).to(logits.device)[chosen]
        logits[chosen, at] = torch.finfo(logits.dtype).min
        logits[chosen, at, self._token()] = 0.0
        output.logits = logits
        return output

    def _token(self) -> int:
        refusal, end = self.guard.refusal, self.guard.end
        if self.step < len(refusal):
            return refusal[self.step]
        return refusal[-1] if end is None else end
