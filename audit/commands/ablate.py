"""ablate(): edit the vectors that carry a concept, as far as unrelated answers allow, and audit what it did.

The vectors and the strength are chosen on one half of the questions; the effect is reported on the other. The edited
model is then compared with the original like any other unlearned model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from audit.architectures import Architecture, identify, why_unknown
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.saving import refuse_occupied, save_model
from audit.commands.compare import compare
from audit.errors import AuditError, ConceptError, ModelError
from audit.evidence import check_known_vectors, load_concepts
from audit.interventions import Change, Place, Setting, apply, dose, methods, places
from audit.models.ffn import unembedding
from audit.models.loading import RunningModel, find_config, load_model, load_tokenizer
from audit.progress import SILENT, Progress
from audit.result import AuditResult, Cell, Control, Measurement
from audit.settings import Settings
from audit.thresholds import COLLATERAL
from audit.unlearning.training import Record
from audit.unlearning.training_examples import lessons
from audit.vectors.asking import known_questions
from audit.vectors.effects import Effect
from audit.vectors.question_split import Bench, Spot
from audit.vectors.search import POOL, FoundVectors, find, matched_controls, significant
from audit.vectors.validation import search
from concepts.concept import Concept

METRIC = "ablation_effect"
TITLE = "Effect of the edit on answers"


@dataclass(frozen=True)
class Dose:
    """One strength and its effect on the choosing side and on the reporting side, a mean over draws."""

    strength: float
    choosing: Effect
    held_out: Effect

    def as_row(self, chosen: bool) -> dict[str, Cell]:
        intervals = self.held_out.intervals()
        row: dict[str, Cell] = {"strength": self.strength, "chosen": chosen}
        for name, value in (("target", self.held_out.on_target), ("unrelated", self.held_out.collateral)):
            low, high = intervals[name] or (None, None)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return row


@dataclass(frozen=True)
class Subject:
    """The model that is edited, with everything that the edit reads."""

    checkpoint: Checkpoint
    architecture: Architecture
    model: RunningModel
    tokenizer_dir: Path


def ablate(
    path: Path,
    concept: str,
    method: str,
    *,
    vectors: Sequence[Place] = (),
    strength: float | None = None,
    collateral: float = COLLATERAL,
    raw: bool = False,
    everywhere: bool = False,
    save: Path | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    settings: Settings = Settings(),
    progress: Progress = SILENT,
    command: str = "",
) -> AuditResult:
    """Edit ``path``'s value vectors by ``method`` and compare the outcome with the original, which stays untouched.

    Args:
        vectors: to edit; if empty, those that the concept names (``settings.known_vectors``) or else the set that
            ``audit.vectors.validation`` finds.
        strength: how far the edit goes; the strongest of the method's doses within ``collateral`` if ``None``.
        collateral: the most that unrelated answers may fall on the choosing side, in nats per answer token.
        raw, everywhere: see ``interventions.Setting``.
        save: folder for the edited model; without it the model is kept only while it is compared.

    Raises:
        AuditError: an unknown method or concept, a folder in use, a model that cannot be edited, in one line.
    """
    if method not in methods():
        raise AuditError(f"no method {method!r}.", hint=f"Choose one of {', '.join(methods())}.")
    (wanted,) = load_concepts([concept])
    if save is not None:
        refuse_occupied(save, originals=[path])
    known = settings.known_vectors
    if known and vectors:
        raise AuditError("--vectors and --known-vectors both name what to edit.", hint="Give one of them.")
    check = partial(check_known_vectors, [wanted]) if known else None
    subject = open_subject(path, config, tokenizer, settings, progress, check)
    vectors = wanted.vectors if known else vectors
    edit = Edit.plan(subject, wanted, method, vectors, settings.seed, raw, everywhere, progress)
    doses = edit.doses([strength] if strength is not None else methods()[method].DOSES)
    chosen = doses[0] if strength is not None else strongest(doses, collateral, method)
    measured = edit.measurement(doses, chosen, collateral)
    apply(subject.model, dose(subject.model, edit.target, chosen.strength))
    record = Record(
        method=method,
        settings={"strength": chosen.strength, "raw": raw, "everywhere": everywhere, "seed": settings.seed},
        changed={"value_vectors": places(edit.target)},
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = save or Path(scratch) / f"{wanted.name}-{method}"
        progress.step(f"Saving {folder.name}")
        save_model(
            subject.model.model,
            subject.checkpoint,
            folder,
            {**record.as_json(), "concept": wanted.name},
            config_dir=config,
            tokenizer_dir=subject.tokenizer_dir,
        )
        del edit, subject
        result = compare(
            path,
            folder,
            concepts=[concept],
            config=config,
            tokenizer=tokenizer,
            settings=settings,
            progress=progress,
            command=command,
        )
    return with_measurement(result, measured)


def open_subject(
    path: Path,
    config: Path | None,
    tokenizer: Path | None,
    settings: Settings,
    progress: Progress,
    check: Callable[[Architecture], None] | None = None,
) -> Subject:
    """The model in ``path``, ready to be edited.

    Args:
        check: what raises before the weights are read.

    Raises:
        ModelError: of no supported family, or of one whose value vectors cannot be edited.
    """
    checkpoint = open_checkpoint(path)
    described = find_config(checkpoint, config)
    architecture = identify(checkpoint, described)
    if architecture is None:
        raise ModelError(why_unknown(checkpoint, described), where=str(path))
    if check is not None:
        check(architecture)
    if checkpoint.config_dir is None and config is None:
        raise ModelError(
            f"a {checkpoint.format} file has no config.json to save beside an edited model.",
            where=str(path),
            hint="Pass the folder of a model as transformers saves it.",
        )
    beside = tokenizer or checkpoint.files[0].parent
    words = load_tokenizer(beside, architecture.d_vocab)
    progress.step("Loading the model")
    model = load_model(checkpoint, architecture, described, words, settings.device, settings.dtype)
    return Subject(checkpoint, architecture, model, beside)


@dataclass(frozen=True)
class Edit:
    """What is edited, and what it does at any strength.

    Attributes:
        spots: the value vectors.
        origin: where they come from, in words.
        draws: the edit in full, as often as the method draws anew; the first is the one that is applied.
        beside: the first of control vectors (``None`` where that would take training).
    """

    bench: Bench
    spots: tuple[Place, ...]
    origin: str
    draws: tuple[Change, ...]
    beside: Change | None
    model: RunningModel
    title: str
    progress: Progress

    @property
    def target(self) -> Change:
        """What is applied, at full strength."""
        return self.draws[0]

    @classmethod
    def plan(
        cls,
        subject: Subject,
        concept: Concept,
        method: str,
        vectors: Sequence[Place],
        seed: int,
        raw: bool,
        everywhere: bool,
        progress: Progress,
    ) -> Edit:
        """Choose the vectors, and see what the method makes of them."""
        model, checkpoint, architecture = subject.model, subject.checkpoint, subject.architecture
        questions = known_questions(model, concept, seed, progress)
        found = find(checkpoint, architecture, concept, model.tokenizer, limit=POOL, seed=seed, progress=progress)
        bench = Bench(model, questions, seed, progress)
        controls = partial(matched_controls, checkpoint, architecture, per_vector=1, candidates=found.candidates)
        spots, origin = _spots(vectors, found, bench, model, controls, progress)
        taught = lessons(concept.model_copy(update={"questions": questions.choosing}))
        setting = Setting(
            tokens=np.asarray(found.tokens.ids),
            W_U=unembedding(checkpoint, architecture),
            forget=taught.forget,
            retain=taught.retain,
            raw=raw,
            everywhere=everywhere,
            seed=seed,
            progress=progress,
        )
        module = methods()[method]
        seeds = range(seed, seed + getattr(module, "DRAWS", 1))
        draws = tuple(module.target(model, spots, replace(setting, seed=each)) for each in seeds)
        others = [Spot(*place) for place in controls(spots)]
        beside = None if module.TRAINS or everywhere else module.target(model, others, setting)
        return cls(bench, tuple(spots), origin, draws, beside, model, concept.title, progress)

    def doses(self, strengths: Sequence[float]) -> list[Dose]:
        """The effect at each strength, weakest first."""
        found = []
        for done, strength in enumerate(sorted(strengths)):
            self.progress.step("Trying strengths", done, len(strengths))
            choosing, held_out = (
                side.dosed(self.draws, strength) for side in (self.bench.choosing, self.bench.reporting)
            )
            found.append(Dose(strength, choosing, held_out))
        return found

    def measurement(self, doses: Sequence[Dose], chosen: Dose, collateral: float) -> Measurement:
        """The held-out effect of the edit as it is applied, with every dose beside it."""
        effect = chosen.held_out
        if len(self.draws) > 1:
            effect = self.bench.reporting.effect(dose(self.model, self.target, chosen.strength))
        control = None
        if self.beside is not None:
            other = self.bench.reporting.effect(dose(self.model, self.beside, chosen.strength))
            control = Control(
                name="the same edit of as many vectors of the same layers and nearest norm",
                value=other.specificity,
                interval=other.intervals()["specificity"],
            )
        return Measurement(
            metric=METRIC,
            title=TITLE,
            value=effect.specificity,
            interval=effect.intervals()["specificity"],
            base=0.0,
            unit=f"nats per answer token that answers about {self.title} fall more than unrelated ones",
            direction="forgetting",
            n=len(effect.target) + len(effect.unrelated),
            control=control,
            items=[row.as_row(row is chosen) for row in doses],
            details={
                "vectors": [[spot.layer, spot.neuron] for spot in self.spots],
                "chosen_from": self.origin,
                "strength": chosen.strength,
                "draws": len(self.draws),
                "collateral_limit": collateral,
                "held_out": effect.as_json(),
                "log_probability_before": self.bench.before,
                "log_probability_floor": self.bench.floor,
                "seed": self.bench.seed,
            },
        )


def _spots(
    vectors: Sequence[Place],
    found: FoundVectors,
    bench: Bench,
    model: RunningModel,
    controls: Callable[[Sequence[Place]], Sequence[tuple[int, int, int]]],
    progress: Progress,
) -> tuple[Sequence[Place], str]:
    """The vectors to edit: those given, the set that carries the concept, or those that write it."""
    if vectors:
        signs = {(vector.layer, vector.neuron): vector.sign for vector in reversed(found.vectors)}
        spots = [Spot(spot.layer, spot.neuron, signs.get((spot.layer, spot.neuron), spot.sign)) for spot in vectors]
        return spots, "given"
    coherent = significant(found)
    best = search(model, bench, coherent, controls, progress=progress)
    if best is not None:
        origin = "the set with the largest effect on the choosing questions within the collateral limit"
        return best.vectors, origin if best.is_specific else f"{origin}; on held-out questions it is not specific"
    if not coherent:
        raise ConceptError(
            f"no value vector of the model carries {found.concept.title}: none writes it beyond chance, and no set "
            "lowers its answers within the collateral limit.",
            hint="Name vectors with --vectors, or raise --collateral.",
        )
    return coherent, "vectors that write the concept; no set stays within the collateral limit"


def strongest(doses: Sequence[Dose], collateral: float, method: str) -> Dose:
    """The strongest dose within the limit on the choosing side.

    Raises:
        AuditError: there is none.
    """
    allowed = [dose for dose in doses if dose.choosing.collateral <= collateral]
    if not allowed:
        least = doses[0]
        raise AuditError(
            f"no strength of {method} stays within the collateral limit of {collateral:g} nats per answer token: the "
            f"weakest, {least.strength:g}, costs unrelated answers {least.choosing.collateral:.3f}.",
            hint="Raise --collateral, or give --strength.",
        )
    return max(allowed, key=lambda dose: dose.choosing.on_target)


def with_measurement(result: AuditResult, measured: Measurement) -> AuditResult:
    """``result`` with one more measurement in its only finding."""
    (finding,) = result.findings
    added = finding.model_copy(update={"measurements": [measured, *finding.measurements]})
    return result.model_copy(update={"findings": [added]})


def parse_vectors(text: str) -> list[Spot]:
    """``"29.555,22.610"`` -> layer 29, neuron 555, and so on.

    Raises:
        AuditError: not of that form.
    """
    found = []
    for part in text.split(","):
        layer, dot, neuron = part.strip().partition(".")
        if not (dot and layer.isdecimal() and neuron.isdecimal()):
            raise AuditError(f"{part.strip()!r} is no value vector.", hint="Write layer.neuron, as in 29.555,22.610.")
        found.append(Spot(int(layer), int(neuron)))
    return found
