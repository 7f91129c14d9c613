"""Key Space Detection: a query whose keys lie in the skill's region is not answered.

The decision is made once, when the prompt has been read: every later token of that sequence is the refusal's, then the
end token. Sequences of a batch are decided one by one. Greedy decoding and sampling are guarded; beam search is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor, nn

from audit.errors import AuditError
from audit.guards.measurements import held_out_inside
from audit.guards.methods import FittedGuard, Guard, GuardOptions, GuardState
from audit.guards.passes import Passes
from audit.guards.regions import fit_regions, read_keys
from audit.guards.sites import Sites
from audit.guards.splits import TokenizedSkill, check_enough_to_choose
from audit.models.hooks import on_inputs, on_outputs
from audit.models.keys import collect, last_keys, last_places, mean_keys
from audit.models.loading import RunningModel
from audit.progress import Progress
from concepts.regions import Hypercube, Region, Vote
from concepts.skill import Skill, Splits

REFUSAL: Final = "I cannot help with that."
REGIONS: Final[Mapping[str, type[Vote] | type[Hypercube]]] = {"vote": Vote, "hypercube": Hypercube}


@dataclass(frozen=True)
class KeySpaceOptions(GuardOptions):
    """``layers`` are those that vote, or among which the cube's layer is chosen.

    Attributes:
        region: ``"vote"`` or ``"hypercube"``.
        misses: the share of the skill that a vote may miss.
        background: whether a vote is also fitted against the tool's own prompts of other kinds.
    """

    region: str = "vote"
    misses: float = 0.02
    background: bool = True

    def __post_init__(self) -> None:
        if self.region not in REGIONS:
            raise AuditError(f"no region {self.region!r}.", hint=f"Choose one of {', '.join(REGIONS)}.")

    def check_skill(self, skill: Skill, splits: Splits) -> None:
        if self.region == "vote":  # a hypercube has no threshold
            check_enough_to_choose(skill, splits, self.misses)


@dataclass(frozen=True)
class KeySpaceGuard(Guard):
    """A region of key space.

    Attributes:
        refusal: token ids that the model writes in place of an answer.
        end: the token that ends them; the last of ``refusal`` is repeated where there is none.
    """

    region: Region
    refusal: tuple[int, ...]
    end: int | None

    def apply(self, model: nn.Module, sites: Sites) -> ExitStack:
        generation = _Generation(self, sites)
        layers = sorted({reading % len(sites.out) for reading in self.readings})
        with ExitStack() as stack:
            stack.enter_context(on_inputs(model, {"": generation.begin_pass}, with_kwargs=True))
            taking = {sites.out[layer]: partial(generation.take_keys, layer) for layer in layers}
            stack.enter_context(on_inputs(model, taking))
            stack.enter_context(on_outputs(model, {"": generation.end_pass}, with_kwargs=True))
            return stack.pop_all()

    @property
    def readings(self) -> list[int]:
        """What the region reads: a layer's number for its last-token keys, ``n_layers`` more for its mean keys."""
        if isinstance(self.region, Vote):
            return [int(reading) for reading in self.region.layers]
        assert isinstance(self.region, Hypercube)
        return [int(self.region.layer)]

    def matches(self, sites: Sites) -> bool:
        exist = all(0 <= reading < 2 * len(sites.out) for reading in self.readings)
        return exist and self.region.shaped(sites.d_mlp)

    def refused(self, model: RunningModel, prompts: Sequence[str]) -> np.ndarray:
        ids = [tuple(model.tokenizer(prompt)["input_ids"])[-model.context :] for prompt in prompts]
        return self.region.inside(collect(model, ids, pool="both").rows)

    def save(self) -> GuardState:
        kind = next(name for name, region in REGIONS.items() if isinstance(self.region, region))
        return GuardState({"region": kind, "refusal": list(self.refusal), "end": self.end}, self.region.to_arrays())

    @classmethod
    def load(cls, state: GuardState) -> Self:
        region = REGIONS[state.settings["region"]].from_arrays(state.arrays)
        return cls(region, tuple(map(int, state.settings["refusal"])), state.settings["end"])


TITLE = "Key Space Detection"
OPTIONS = KeySpaceOptions
GUARD = KeySpaceGuard


def fit(
    model: RunningModel, skills: Sequence[TokenizedSkill], options: KeySpaceOptions, seed: int, progress: Progress
) -> FittedGuard:
    options.check_skill(skills[0].skill, skills[0].splits)  # again, now without prompts that exceed the context
    keys = read_keys(model, skills, options.region == "vote" and options.background, progress)
    progress.step("Fitting the region")
    regions = fit_regions(skills, keys, options.region, options.layers, options.misses)
    refusal = model.tokenizer(REFUSAL, add_special_tokens=False)["input_ids"]
    guard = KeySpaceGuard(regions.region, tuple(refusal), model.tokenizer.eos_token_id)
    return FittedGuard(guard, (held_out_inside(skills, keys, regions),))


class _Generation:
    """What a guard remembers between passes: which sequences are refused, and how far their refusal is written."""

    def __init__(self, guard: KeySpaceGuard, sites: Sites) -> None:
        self.guard, self.sites = guard, sites
        self.passes = Passes()
        self.refused = np.zeros(0, dtype=bool)
        self.keys: dict[int, np.ndarray] = {}

    def begin_pass(self, module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.passes.begin(inputs, kwargs)

    def take_keys(self, layer: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Pool the keys of a prompt as the region reads them."""
        if not self.passes.reads_prompt:
            return
        keys = inputs[0].reshape(*self.passes.ids.shape, -1)
        for pool, pooled in enumerate((last_keys, mean_keys)):
            reading = layer + pool * len(self.sites.out)
            if reading in self.guard.readings:
                self.keys[reading] = pooled(keys.detach(), self.passes.mask).half().cpu().numpy()

    def end_pass(self, module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Decide which prompts are refused; the next token of a refused sequence is the refusal's."""
        if self.passes.reads_prompt:
            self.refused = self._decide()
        if not self.refused.any():
            return output
        logits = output.logits.clone()
        rows = torch.from_numpy(np.flatnonzero(self.refused)).to(logits.device)
        at = torch.full_like(rows, logits.shape[1] - 1)
        if (
            self.passes.reads_prompt and logits.shape[1] > 1
        ):  # padded on the right, the last token is not the last column
            at = last_places(self.passes.mask).to(logits.device)[rows]
        logits[rows, at] = torch.finfo(logits.dtype).min
        logits[rows, at, self._token()] = 0.0
        output.logits = logits
        return output

    def _decide(self) -> np.ndarray:
        keys = np.zeros((len(self.passes.mask), 2 * len(self.sites.out), self.sites.d_mlp), dtype=np.float16)
        for reading, rows in self.keys.items():
            keys[:, reading] = rows
        self.keys.clear()
        return self.guard.region.inside(keys)

    def _token(self) -> int:
        refusal, end = self.guard.refusal, self.guard.end
        if self.passes.step < len(refusal):
            return refusal[self.passes.step]
        return refusal[-1] if end is None else end
