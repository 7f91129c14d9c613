"""ablate(): edit the value vectors that carry a concept, as far as unrelated answers allow, and audit the edited model.

Neurons and strength are chosen on one split of the questions, the effect is reported on the other. The edited model is
then compared with the original like any other unlearned model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from audit.architectures import Architecture
from audit.checkpoint.saving import refuse_occupied, save_model
from audit.commands.compare import compare
from audit.errors import AuditError, ConceptError, ModelError
from audit.evidence import check_known_vectors, load_concepts
from audit.interventions import Change, EditInputs, Intervention, apply, dose, methods, places
from audit.models.ffn import unembedding
from audit.models.loading import RunningModel
from audit.models.opening import OpenedModel, open_model
from audit.progress import Progress
from audit.request import RunContext
from audit.result import AuditResult, Cell, Control, Measurement
from audit.settings import Settings
from audit.thresholds import COLLATERAL
from audit.unlearning.training import Record
from audit.unlearning.training_examples import training_examples
from audit.vectors.controls import Controls, matched_controls
from audit.vectors.effects import Effect
from audit.vectors.question_split import QuestionSplits, split_questions
from audit.vectors.records import SearchResult
from audit.vectors.search import POOL, find_vectors, significant
from audit.vectors.validation import choose_set
from concepts.concept import Concept
from concepts.neuron import Neuron

METRIC = "ablation_effect"
TITLE = "Effect of the edit on answers"


@dataclass(frozen=True)
class EditOptions:
    """Which value vectors are edited, and how far.

    Attributes:
        neurons: to edit; if empty, those that the concept names (``Settings.known_vectors``), or else the set that
            ``audit.vectors.validation`` chooses.
        strength: how far the edit goes; if ``None``, the strongest of the method's doses within ``collateral``.
        collateral: the most that unrelated answers may fall on the choosing split, in nats per answer token.
        raw, everywhere: see ``interventions.EditInputs``.
    """

    neurons: Sequence[Neuron] = ()
    strength: float | None = None
    collateral: float = COLLATERAL
    raw: bool = False
    everywhere: bool = False


@dataclass(frozen=True)
class Dose:
    """The effect at one strength on each split, a mean over draws."""

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
    """The model that is edited: its files, and the running model that is edited in place."""

    opened: OpenedModel
    model: RunningModel


@dataclass(frozen=True)
class Edit:
    """A planned edit: which neurons, and what their value vectors become at full strength.

    Attributes:
        origin: how the neurons were chosen, in words.
        draws: the edit at full strength, once for each seed over which its effect is averaged; the first is applied.
        controls: the same edit of control vectors; ``None`` if that would need training.
    """

    model: RunningModel
    splits: QuestionSplits
    neurons: tuple[Neuron, ...]
    origin: str
    draws: tuple[Change, ...]
    controls: Change | None

    @property
    def target(self) -> Change:
        """What is applied, at full strength."""
        return self.draws[0]

    def doses(self, strengths: Sequence[float], progress: Progress) -> list[Dose]:
        """The effect at each strength, weakest first."""
        doses = []
        for done, strength in enumerate(sorted(strengths)):
            progress.step("Trying strengths", done, len(strengths))
            splits = (self.splits.choosing, self.splits.held_out)
            doses.append(Dose(strength, *(split.mean_effect(self.draws, strength) for split in splits)))
        return doses

    def applied(self, chosen: Dose) -> Effect:
        """The held-out effect of the draw that is applied."""
        if len(self.draws) == 1:
            return chosen.held_out
        return self.splits.held_out.effect(dose(self.model, self.target, chosen.strength))

    def control(self, strength: float) -> Control | None:
        """The held-out effect of the same edit of control vectors."""
        if self.controls is None:
            return None
        effect = self.splits.held_out.effect(dose(self.model, self.controls, strength))
        return Control(
            name="the same edit of as many vectors of the same layers and nearest norm",
            value=effect.specificity,
            interval=effect.intervals()["specificity"],
        )


def ablate(
    path: Path,
    concept: str,
    method: str,
    options: EditOptions = EditOptions(),
    *,
    save: Path | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    context: RunContext = RunContext(),
) -> AuditResult:
    """Edit the value vectors of a copy of ``path`` by ``method``, and compare it with the original.

    Args:
        save: folder for the edited model; without it, the model is deleted after the comparison.

    Raises:
        AuditError: an unknown method or concept, a folder in use, a model that cannot be edited.
    """
    intervention = _intervention(method)
    (wanted,) = load_concepts([concept])
    if save is not None:
        refuse_occupied(save, originals=[path])
    options = _with_known_vectors(options, wanted, context.settings)
    check = partial(check_known_vectors, [wanted]) if context.settings.known_vectors else None
    subject = open_subject(path, config, tokenizer, context.settings, context.progress, check)
    edit = plan_edit(subject, wanted, method, options, context)
    strengths = intervention.DOSES if options.strength is None else [options.strength]
    doses = edit.doses(strengths, context.progress)
    chosen = strongest(doses, options.collateral, method) if options.strength is None else doses[0]
    measured = measurement(edit, wanted, doses, chosen, options.collateral)
    apply(subject.model, dose(subject.model, edit.target, chosen.strength))
    record = Record(
        method=method,
        settings={
            "strength": chosen.strength,
            "raw": options.raw,
            "everywhere": options.everywhere,
            "seed": context.settings.seed,
        },
        changed={"value_vectors": places(edit.target)},
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = save or Path(scratch) / f"{wanted.name}-{method}"
        _save(subject, folder, wanted, record, config, context.progress)
        del edit, subject
        result = compare(
            path,
            folder,
            concepts=[concept],
            config=config,
            tokenizer=tokenizer,
            settings=context.settings,
            progress=context.progress,
            command=context.command,
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
        check: called before the weights are read; it raises if the edit is impossible.

    Raises:
        ModelError: of no supported family, or of one whose value vectors cannot be edited.
    """
    opened = open_model(path, config, tokenizer)
    opened.require_config()
    architecture = opened.require_architecture()
    if check is not None:
        check(architecture)
    if opened.checkpoint.config_dir is None and config is None:
        raise ModelError(
            f"a {opened.checkpoint.format} file has no config.json to save with an edited model.",
            where=str(path),
            hint="Pass the folder of a model as transformers saves it.",
        )
    opened.require_tokenizer()
    progress.step("Loading the model")
    return Subject(opened, opened.load(settings.device, settings.dtype))


def plan_edit(
    subject: Subject, concept: Concept, method: str, options: EditOptions, context: RunContext = RunContext()
) -> Edit:
    """The neurons to edit, and what the method makes of their value vectors."""
    seed, progress, model = context.settings.seed, context.progress, subject.model
    checkpoint, architecture = subject.opened.checkpoint, model.architecture
    questions = split_questions(model, concept, seed, progress)
    result = find_vectors(checkpoint, architecture, concept, model.tokenizer, limit=POOL, seed=seed, progress=progress)
    splits = QuestionSplits(model, questions, seed, progress)
    controls = partial(matched_controls, checkpoint, architecture, per_vector=1, candidates=result.candidates)
    neurons, origin = (
        (_with_signs(options.neurons, result), "given")
        if options.neurons
        else _chosen_neurons(result, splits, model, controls, progress)
    )
    examples = training_examples(concept.model_copy(update={"questions": questions.choosing_questions}))
    inputs = EditInputs(
        tokens=np.asarray(result.tokens.ids),
        W_U=unembedding(checkpoint, architecture),
        forget=examples.forget,
        retain=examples.retain,
        raw=options.raw,
        everywhere=options.everywhere,
        seed=seed,
        progress=progress,
    )
    intervention = _intervention(method)
    draws = (replace(inputs, seed=each) for each in range(seed, seed + intervention.DRAWS))
    costly = intervention.TRAINS or options.everywhere
    return Edit(
        model=model,
        splits=splits,
        neurons=tuple(neurons),
        origin=origin,
        draws=tuple(intervention.target(model, neurons, draw) for draw in draws),
        controls=None if costly else intervention.target(model, controls(neurons), inputs),
    )


def strongest(doses: Sequence[Dose], collateral: float, method: str) -> Dose:
    """The strongest dose within the limit on the choosing split.

    Raises:
        AuditError: every dose exceeds the limit.
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


def measurement(edit: Edit, concept: Concept, doses: Sequence[Dose], chosen: Dose, collateral: float) -> Measurement:
    """The held-out effect of the edit as it is applied, with the effect of every dose."""
    effect = edit.applied(chosen)
    return Measurement(
        metric=METRIC,
        title=TITLE,
        value=effect.specificity,
        interval=effect.intervals()["specificity"],
        base=0.0,
        unit=f"nats per answer token that answers about {concept.title} fall more than unrelated ones",
        direction="forgetting",
        n=len(effect.target) + len(effect.unrelated),
        control=edit.control(chosen.strength),
        items=[row.as_row(row is chosen) for row in doses],
        details={
            "vectors": [[place.layer, place.neuron] for place in edit.neurons],
            "chosen_from": edit.origin,
            "strength": chosen.strength,
            "draws": len(edit.draws),
            "collateral_limit": collateral,
            "held_out": effect.record().model_dump(),
            "log_probability_before": edit.splits.before,
            "log_probability_floor": edit.splits.floor,
            "seed": edit.splits.seed,
        },
    )


def with_measurement(result: AuditResult, measured: Measurement) -> AuditResult:
    """``result`` with ``measured`` first in its only finding."""
    (finding,) = result.findings
    added = finding.model_copy(update={"measurements": [measured, *finding.measurements]})
    return result.model_copy(update={"findings": [added]})


def parse_neurons(text: str) -> list[Neuron]:
    """Layer and neuron of each value vector: ``"29.555,22.610"``.

    Raises:
        AuditError: not of that form.
    """
    neurons = []
    for part in text.split(","):
        layer, dot, neuron = part.strip().partition(".")
        if not (dot and layer.isdecimal() and neuron.isdecimal()):
            raise AuditError(
                f"{part.strip()!r} does not name a value vector.", hint="Write layer.neuron, as in 29.555,22.610."
            )
        neurons.append(Neuron(int(layer), int(neuron)))
    return neurons


def _intervention(method: str) -> Intervention:
    if method not in methods():
        raise AuditError(f"no method {method!r}.", hint=f"Choose one of {', '.join(methods())}.")
    return methods()[method]


def _with_known_vectors(options: EditOptions, concept: Concept, settings: Settings) -> EditOptions:
    """``options`` with the neurons that the concept's file names, where the settings ask for these."""
    if not settings.known_vectors:
        return options
    if options.neurons:
        raise AuditError("--vectors and --known-vectors both name what to edit.", hint="Give one of them.")
    return replace(options, neurons=[vector.place for vector in concept.vectors])


def _with_signs(neurons: Sequence[Neuron], result: SearchResult) -> Sequence[Neuron]:
    """``neurons``, with the sign by which the search listed them where it did."""
    listed = {vector.place: vector.place for vector in reversed(result.vectors)}
    return [listed.get(place, place) for place in neurons]


def _chosen_neurons(
    result: SearchResult, splits: QuestionSplits, model: RunningModel, controls: Controls, progress: Progress
) -> tuple[Sequence[Neuron], str]:
    """The set that carries the concept, or else the neurons that write it; with where they come from, in words."""
    coherent = [vector.place for vector in significant(result)]
    causal_set = choose_set(model, splits, coherent, controls, progress=progress)
    if causal_set is not None:
        origin = "the set with the largest effect on the choosing questions within the collateral limit"
        specific = "" if causal_set.is_specific else "; on held-out questions it is not specific"
        return causal_set.neurons, f"{origin}{specific}"
    if not coherent:
        raise ConceptError(
            f"no value vector of the model carries {result.concept.title}: none writes it beyond chance, and no set "
            "lowers its answers within the collateral limit.",
            hint="Name vectors with --vectors, or raise --collateral.",
        )
    return coherent, "vectors that write the concept; no set stays within the collateral limit"


def _save(
    subject: Subject, folder: Path, concept: Concept, record: Record, config: Path | None, progress: Progress
) -> None:
    progress.step(f"Saving {folder.name}")
    save_model(
        subject.model.model,
        subject.opened.checkpoint,
        folder,
        {**record.as_json(), "concept": concept.name},
        config_dir=config,
        tokenizer_dir=subject.opened.tokenizer_files.path,
    )
