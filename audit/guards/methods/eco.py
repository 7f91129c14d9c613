"""Embedding-corrupted prompts (ECO; Liu, Wang, Flanigan and Liu 2024, arXiv 2406.07933).

A classifier reads the prompt. Where it says that the prompt needs what is to be forgotten, the embeddings of the
prompt's tokens, all but the last one, are corrupted before the model reads them: noise N(0, sigma^2) in the first
dimensions, or the entries of largest size set to 0. No weight changes.

How strong the corruption is follows from a search without gradients: the right answers should become as probable as
other answers of the set are after the same prompts, as for a model that never learnt them. The paper's classifier is
a fine-tuned RoBERTa; this one is a logistic regression on the model's own keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from audit.errors import AuditError
from audit.guards.measurements import measure_answers
from audit.guards.methods import FittedGuard, GuardOptions, GuardState
from audit.guards.methods._prompts import GuardedPrompts, Keys, PromptGuard, read_prompts, reading_layers
from audit.guards.sites import Sites, generator_at
from audit.guards.splits import TokenizedSkill
from audit.models.hooks import Hook, embedding_name
from audit.models.keys import last_places
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.models.scoring import fits
from audit.progress import Progress
from audit.unlearning.methods.random_answers import wrong_answers
from concepts.region_choice import load_background

CORRUPTIONS: Final = ("noise", "zero")
INVERSE_PENALTY: Final = 100.0
"""Of the logistic regression, on features of length 1 on average."""
SEARCHED: Final = 16
"""At most so many answers are scored in the search for the strength."""


@dataclass(frozen=True)
class ECOOptions(GuardOptions):
    """``layers`` are those whose keys the classifier reads.

    Attributes:
        threshold: probability from which a prompt is flagged.
        background: whether the classifier is also fitted against the tool's own prompts of other kinds.
        corruption: ``"noise"`` or ``"zero"``.
        dims: number of dimensions with noise, the first ones; 0 means all.
        strength: where the search begins: the noise's standard deviation relative to the root mean square of the
            embeddings' entries, or the share of the entries that are set to 0.
        steps: of the search; 0 keeps ``strength``.
        rate: step size of the search; the n-th step has ``rate / n``.
        epsilon: the search compares strengths that lie so far on both sides.
    """

    threshold: float = 0.5
    background: bool = True
    corruption: str = "noise"
    dims: int = 0
    strength: float = 1.0
    steps: int = 10
    rate: float = 0.2
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if self.corruption not in CORRUPTIONS:
            raise AuditError(f"no corruption {self.corruption!r}.", hint=f"Choose one of {', '.join(CORRUPTIONS)}.")
        if not 0 < self.threshold < 1:
            raise AuditError(f"threshold is {self.threshold:g}.", hint="Give a probability between 0 and 1.")
        for name in ("dims", "strength", "steps"):
            if not getattr(self, name) >= 0:
                raise AuditError(f"{name} must not be negative, but is {getattr(self, name)}.")
        for name in ("rate", "epsilon"):
            if not getattr(self, name) > 0:
                raise AuditError(f"{name} must be positive, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Classifier:
    """The probability that a prompt needs what is to be forgotten: a logistic regression on standardised keys.

    Attributes:
        mean, scale: of the prompts of the fit; the scale is infinite where a neuron never varies.
    """

    mean: Float[np.ndarray, "n_read d_mlp"]
    scale: Float[np.ndarray, "n_read d_mlp"]
    weight: Float[np.ndarray, "n_read d_mlp"]
    bias: float

    def probability(self, keys: Keys) -> Float[np.ndarray, " n"]:
        standard = (keys.astype(np.float64) - self.mean) / self.scale
        logits = np.einsum("nld,ld->n", standard, self.weight) + self.bias
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -500, 500))))


def fit_classifier(
    forget: Float[np.ndarray, "n n_read d_mlp"], others: Float[np.ndarray, "m n_read d_mlp"]
) -> Classifier:
    """Both classes have the same weight."""
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate([forget, others]).astype(np.float64)
    mean, scale = rows.mean(axis=0), rows.std(axis=0) * np.sqrt(rows[0].size)
    scale = np.where(scale > 0, scale, np.inf)
    labels = np.arange(len(rows)) < len(forget)
    regression = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=1000)
    regression.fit(((rows - mean) / scale).reshape(len(rows), -1), labels)
    return Classifier(mean, scale, regression.coef_.reshape(mean.shape), float(regression.intercept_[0]))


@dataclass(frozen=True)
class ECOGuard(PromptGuard):
    """A classifier and a corruption.

    Attributes:
        strength: standard deviation of the noise, or number of entries of an embedding that are set to 0.
        seed: of the noise.
    """

    layers: Int[np.ndarray, " n_read"]
    classifier: Classifier
    threshold: float
    corruption: str
    dims: int
    strength: float
    seed: int
    _draws: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def decide(self, keys: Keys) -> Float[np.ndarray, "n 1"]:
        return (self.classifier.probability(keys) >= self.threshold).astype(float)[:, None]

    def effects(self, model: nn.Module, prompts: GuardedPrompts) -> Mapping[str, Hook]:
        return {embedding_name(model): partial(self._embed, prompts)}

    def _embed(
        self, prompts: GuardedPrompts, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        if prompts.passes.past or not prompts.acts:
            return None
        flagged = torch.from_numpy(prompts.amounts[:, 0] > 0).to(output.device)
        mask = prompts.mask.to(output.device)
        rows, columns = (marked(mask) & flagged[:, None]).nonzero(as_tuple=True)
        positions = mask.cumsum(dim=1)[rows, columns] - 1
        corrupted = output.clone()
        corrupted[rows, columns] = self.corrupt(output[rows, columns], positions)
        return corrupted

    def corrupt(self, embedded: Float[Tensor, "m d_model"], positions: Int[Tensor, " m"]) -> Float[Tensor, "m d_model"]:
        """The embeddings of tokens at these positions of their prompts, corrupted."""
        if self.corruption == "zero":
            largest = embedded.abs().topk(min(round(self.strength), embedded.shape[1]), dim=1).indices
            return embedded.scatter(1, largest, 0.0)
        noise = torch.from_numpy(self._drawn(positions.tolist(), embedded.shape[1]))
        return (embedded.float() + self.strength * noise.to(embedded.device)).to(embedded.dtype)

    def _drawn(self, positions: Sequence[int], d_model: int) -> Float[np.ndarray, "m d_model"]:
        """Standard normal noise in the first ``dims`` dimensions; a position of a prompt always has the same."""
        for position in {*positions} - self._draws.keys():
            self._draws[position] = generator_at(self.seed, position).standard_normal(d_model, dtype=np.float32)
        noise = np.array([self._draws[position] for position in positions], dtype=np.float32).reshape(-1, d_model)
        noise[:, self.dims or d_model :] = 0
        return noise

    def matches(self, sites: Sites) -> bool:
        parts = (self.classifier.mean, self.classifier.scale, self.classifier.weight)
        return self.reads(sites) and all(part.shape == (len(self.layers), sites.d_mlp) for part in parts)

    def save(self) -> GuardState:
        settings = {name: getattr(self, name) for name in ("threshold", "corruption", "dims", "strength", "seed")}
        arrays = {name: getattr(self.classifier, name) for name in ("mean", "scale", "weight")}
        return GuardState(settings | {"bias": self.classifier.bias}, arrays | {"layers": self.layers})

    @classmethod
    def load(cls, state: GuardState) -> Self:
        arrays, settings = dict(state.arrays), dict(state.settings)
        layers = arrays.pop("layers")
        classifier = Classifier(**arrays, bias=float(settings.pop("bias")))
        return cls(layers, classifier, **settings)


def marked(mask: Shaped[Tensor, "n length"]) -> Bool[Tensor, "n length"]:
    """Where the tokens are that may be corrupted: all but the last of each prompt."""
    earlier = mask.bool().clone()
    earlier[torch.arange(len(mask), device=mask.device), last_places(mask)] = False
    return earlier


TITLE = "Embedding-corrupted prompts"
OPTIONS = ECOOptions
GUARD = ECOGuard


def fit(
    model: RunningModel, skills: Sequence[TokenizedSkill], options: ECOOptions, seed: int, progress: Progress
) -> FittedGuard:
    """Fit the classifier to every wording of the queries, and find the strength on their answers."""
    layers = reading_layers(model.architecture.n_layers, options.layers)
    forget, *others = ([text for _, text in skill.wordings_of("fit")] for skill in skills)
    elsewhere = [text for texts in others for text in texts] + (list(load_background()) if options.background else [])
    keys = [read_prompts(model, texts, layers, progress) for texts in (forget, elsewhere)]
    guard = ECOGuard(layers, fit_classifier(*keys), options.threshold, options.corruption, options.dims, 0.0, seed)
    strength, trajectory = strength_of(model, skills[0], guard, options, progress)
    guard = replace(guard, strength=strength)
    return FittedGuard(guard, measure_answers(model, skills, guard, seed, progress), trajectory)


def strength_of(
    model: RunningModel, skill: TokenizedSkill, guard: ECOGuard, options: ECOOptions, progress: Progress
) -> tuple[float, tuple[dict[str, float], ...]]:
    """The strength that brings the right answers nearest to where other answers are, and the steps of the search.

    Raises:
        AuditError: the queries of the fit have no answer that can be scored, or no wrong one to compare with.
    """
    unit = float(model.architecture.d_model) if guard.corruption == "zero" else _size(model, skill)
    if not options.steps:
        return options.strength * unit, ()
    examples = _examples(model, skill)
    if not examples:
        raise AuditError(
            f"no query of {skill.title} to fit on has an answer that can be scored, so that no strength can be found.",
            hint="Give answers, or the strength with --option steps=0 --option strength=1.",
        )
    unlearnt = guard.score(model, wrong_answers(examples, guard.seed)).means.mean()
    sites = Sites.from_architecture(model.architecture)

    def distance(strength: float) -> float:
        with replace(guard, threshold=0.0, strength=strength * unit).apply(model.model, sites):
            return float(abs(guard.score(model, examples).means.mean() - unlearnt))

    strength, trajectory = search(distance, options, progress)
    return strength * unit, trajectory


def search(
    distance: Callable[[float], float], options: ECOOptions, progress: Progress
) -> tuple[float, tuple[dict[str, float], ...]]:
    """The strength of smallest distance that descent by central differences comes across, and its steps.

    Steps become shorter, as the distance has a kink where it is 0. Strengths are at least 0; there the difference is
    divided by the shorter way between the two that are compared.
    """
    tried: dict[float, float] = {}
    strength, steps = options.strength, []
    for step in range(options.steps):
        low, high = max(strength - options.epsilon, 0.0), strength + options.epsilon
        tried |= {at: distance(at) for at in (low, high)}
        slope = (tried[high] - tried[low]) / (high - low)
        steps.append({"step": step, "strength": strength, "below": tried[low], "above": tried[high]})
        strength = max(strength - options.rate / (step + 1) * slope, 0.0)
        progress.step("Searching the strength", step + 1, options.steps)
    tried[strength] = distance(strength)
    return min(tried, key=lambda at: tried[at]), tuple(steps)


def _examples(model: RunningModel, skill: TokenizedSkill) -> list[Example]:
    """Queries of the fit with their right answers."""
    answers = [(index, skill.answer_text(index)) for index in skill.splits.fit]
    examples = [Example(skill.prompts[index], answer) for index, answer in answers if answer is not None]
    return [example for example in examples if fits(example, model)][:SEARCHED]


def _size(model: RunningModel, skill: TokenizedSkill) -> float:
    """Root mean square of the entries of the embeddings of the queries' tokens."""
    tokens = sorted({token for ids in skill.ids_of("fit") for token in ids})
    embedding: Any = model.model.get_input_embeddings()
    with torch.no_grad():
        embedded = embedding(torch.tensor(tokens, device=model.device))
    return float(embedded.float().square().mean().sqrt())
