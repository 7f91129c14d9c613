"""O3: an adapter that refuses, applied as far as a prompt is one of its request's (Gao et al. 2024, arXiv 2407.10223).

Each request trains a low-rank adapter (LoRA, arXiv 2106.09685) of all linear layers to refuse its questions, or to give
other answers, with ``penalty * sum ||A_s A_t^T||_F^2`` over the earlier requests' adapters: where that is 0, no two
adapters write along each other, ``<B_s A_s, B_t A_t> = 0``. A prompt is run with ``W x + w * scaling * B A x``, where
the weight ``w`` is its gate's (``guards.gates``). No weight of the model changes.

Unlike the reference code's, the weight only grows as prompts are more alike, up to the middle of the request's own, and
reaches 1 and not 1.2; and there is no dropout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from audit.errors import AuditError, ModelError
from audit.guards.adapters import AdapterSettings, Matrices, adapted, cosine, train_adapter
from audit.guards.effects import check_scorable
from audit.guards.gates import Detector, fit_detector, gate_weight
from audit.guards.measurements import measure_answers
from audit.guards.methods import FittedGuard, GuardOptions, GuardState
from audit.guards.methods._prompts import GuardedPrompts, Keys, PromptGuard, read_prompts, reading_layers
from audit.guards.saving import digest, read_guard
from audit.guards.sites import Sites
from audit.guards.splits import TokenizedSkill
from audit.models.hooks import Hook, find_module
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import Progress
from audit.unlearning.methods.dpo import refusals
from audit.unlearning.methods.random_answers import wrong_answers
from audit.unlearning.parts import widths

ANSWERS: Final = ("refusal", "random")


@dataclass(frozen=True)
class O3Options(GuardOptions):
    """``layers`` are those whose keys the gate reads.

    Attributes:
        rank: of the adapter.
        alpha: the adapter's output is multiplied by ``alpha / rank``.
        penalty: factor of the overlap with earlier adapters.
        answers: what is trained in place of the right answers: ``"refusal"``, or ``"random"`` for those of others.
        steps, learning_rate, batch: of the training.
        least: weights below this are 0; 0 for the paper's formula, by which no prompt is left quite alone.
        after: folder of an earlier O3 guard of this model, whose requests are kept.
    """

    rank: int = 8
    alpha: float = 16.0
    penalty: float = 0.1
    answers: str = "refusal"
    steps: int = 40
    learning_rate: float = 1e-3
    batch: int = 16
    least: float = 0.3
    after: str = ""

    def __post_init__(self) -> None:
        if self.answers not in ANSWERS:
            raise AuditError(f"no answers {self.answers!r}.", hint=f"Choose one of {', '.join(ANSWERS)}.")
        for name in ("rank", "alpha", "steps", "learning_rate", "batch"):
            if not getattr(self, name) > 0:
                raise AuditError(f"{name} must be positive, not {getattr(self, name)}.")
        if not self.penalty >= 0:
            raise AuditError(f"penalty must not be negative, but is {self.penalty}.")
        if not 0 <= self.least < 1:
            raise AuditError(f"least is {self.least:g}.", hint="Give a weight of at least 0 and below 1.")


@dataclass(frozen=True)
class Request:
    """One unlearning request.

    Attributes:
        detector: of its prompts.
        matrices: of its adapter.
        scaling: of the adapter's output.
        overlaps: cosine of its adapter's change of the weights with that of each earlier request.
    """

    detector: Detector
    matrices: Matrices
    scaling: float
    overlaps: tuple[float, ...] = ()


@dataclass(frozen=True)
class O3Guard(PromptGuard):
    """Requests with their gates and adapters; the adapters' outputs are added."""

    layers: Int[np.ndarray, " n_read"]
    requests: tuple[Request, ...]
    least: float

    def decide(self, keys: Keys) -> Float[np.ndarray, "n n_requests"]:
        return np.stack([gate_weight(each.detector.likeness(keys), self.least) for each in self.requests], axis=1)

    def effects(self, model: nn.Module, prompts: GuardedPrompts) -> Mapping[str, Hook]:
        names = dict.fromkeys(name for request in self.requests for name in request.matrices)
        for name in names:
            self._check(find_module(model, name), name)
        return {name: partial(self._add, prompts, name) for name in names}

    def _check(self, module: nn.Module, name: str) -> None:
        for A, B in (request.matrices[name] for request in self.requests if name in request.matrices):
            if (A.shape[1], B.shape[0]) != widths(module):
                raise ModelError(f"the guard's adapter of {name} has other widths than the model's layer.")

    def _add(
        self, prompts: GuardedPrompts, name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        if not prompts.acts:
            return None
        shape = (*prompts.passes.ids.shape, -1)  # OPT's FFN sees all rows as one
        added = output.reshape(shape).clone()
        for request, amounts in zip(self.requests, prompts.amounts.T, strict=True):
            if name in request.matrices:
                rows = torch.from_numpy(np.flatnonzero(amounts)).to(output.device)
                amount = torch.from_numpy(amounts[amounts > 0]).to(output.device, torch.float32)
                written = adapted(args[0].reshape(shape)[rows], request.matrices[name], request.scaling)
                added[rows] += (amount[:, None, None] * written).to(output.dtype)
        return added.reshape(output.shape)

    def matches(self, sites: Sites) -> bool:
        gates = all(each.detector.shaped(len(self.layers), sites.d_mlp) for each in self.requests)
        pairs = [pair for each in self.requests for pair in each.matrices.values()]
        return self.reads(sites) and gates and all(A.ndim == B.ndim == 2 and len(A) == B.shape[1] for A, B in pairs)

    def save(self) -> GuardState:
        arrays = {"layers": self.layers}
        for number, request in enumerate(self.requests):
            arrays |= {f"{number}.gate.{name}": array for name, array in request.detector.to_arrays().items()}
            for name, pair in request.matrices.items():
                arrays |= {f"{number}.{side}.{name}": matrix.numpy() for side, matrix in zip("AB", pair, strict=True)}
        settings = [{"scaling": each.scaling, "overlaps": list(each.overlaps)} for each in self.requests]
        return GuardState({"least": self.least, "requests": settings}, arrays)

    @classmethod
    def load(cls, state: GuardState) -> Self:
        requests = tuple(
            Request(
                detector=Detector.from_arrays(dict(_named(state.arrays, f"{number}.gate."))),
                matrices={
                    name: (torch.from_numpy(A), torch.from_numpy(state.arrays[f"{number}.B.{name}"]))
                    for name, A in _named(state.arrays, f"{number}.A.")
                },
                scaling=float(settings["scaling"]),
                overlaps=tuple(settings["overlaps"]),
            )
            for number, settings in enumerate(state.settings["requests"])
        )
        return cls(state.arrays["layers"], requests, float(state.settings["least"]))


def _named(arrays: Mapping[str, np.ndarray], prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays whose names begin with ``prefix``, by the rest of their names."""
    for name, array in arrays.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), array


TITLE = "O3"
OPTIONS = O3Options
GUARD = O3Guard


def fit(
    model: RunningModel, skills: Sequence[TokenizedSkill], options: O3Options, seed: int, progress: Progress
) -> FittedGuard:
    """Fit the gate to every wording of the queries, and train the adapter on them.

    Raises:
        AuditError: ``after`` is no O3 guard of this model, or there is no room for another request.
        ModelError: the model cannot be trained, or training diverged.
    """
    check_scorable(model)
    earlier = _earlier(model, options)
    layers = reading_layers(model.architecture.n_layers, options.layers) if earlier is None else earlier.layers
    requests = () if earlier is None else earlier.requests
    group, texts = zip(*skills[0].wordings_of("fit"), strict=True)
    sets = (
        texts,
        [text for _, text in skills[0].wordings_of("choose")],
        [text for skill in skills[1:] for _, text in skill.wordings_of("fit")],
    )
    fitted, further, others = (read_prompts(model, each, layers, progress) for each in sets)
    detector = fit_detector(fitted, np.array(group), further, others)
    settings = AdapterSettings(
        seed=seed,
        steps=options.steps,
        learning_rate=options.learning_rate,
        forget_batch=options.batch,
        rank=options.rank,
        scaling=options.alpha / options.rank,
        penalty=options.penalty,
    )
    before = [each.matrices for each in requests]
    matrices, trajectory = train_adapter(
        model, replaced_answers(skills[0], options.answers, seed), before, settings, progress
    )
    request = Request(detector, matrices, settings.scaling, tuple(cosine(matrices, each) for each in before))
    guard = O3Guard(layers, (*requests, request), options.least)
    return FittedGuard(guard, measure_answers(model, skills, guard, seed, progress), trajectory)


def _earlier(model: RunningModel, options: O3Options) -> O3Guard | None:
    """The guard in ``options.after``."""
    if not options.after:
        return None
    saved = read_guard(Path(options.after))
    if not isinstance(saved.guard, O3Guard):
        raise AuditError("is not a guard of the method o3.", where=options.after)
    if saved.base_sha256 != digest(model.model):
        raise AuditError("is a guard of another model.", where=options.after)
    if options.layers and list(options.layers) != saved.guard.layers.tolist():
        raise AuditError(
            "reads other layers.", where=options.after, hint="All requests read the same; leave layers out."
        )
    return saved.guard


def replaced_answers(skill: TokenizedSkill, answers: str, seed: int) -> list[Example]:
    """Every wording of the queries of the fit with what is to be said in place of its answer."""
    wordings = skill.wordings_of("fit")
    if answers == "refusal":
        return refusals([Example(text, "") for _, text in wordings])
    known = [(text, skill.answer_text(index)) for index, text in wordings]
    return wrong_answers([Example(text, answer) for text, answer in known if answer is not None], seed)
