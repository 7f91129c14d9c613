"""ablate(): edit the value vectors that carry a concept, as far as unrelated answers allow, and audit the edited model.

Neurons and strength are chosen on one split of the questions, the effect is reported on the other. The edited model is
then compared with the original like any other unlearned model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from audit.checkpoint.saving import refuse_occupied
from audit.commands.compare import compare
from audit.errors import AuditError
from audit.evidence import check_known_vectors
from audit.interventions import apply, dose, places
from audit.models.editable import open_editable
from audit.questions.topics import load_concepts
from audit.request import Request, RunContext
from audit.result import AuditResult, Measurement
from audit.settings import Settings
from audit.unlearning.training import Record
from audit.vectors.edit import Dose, Edit, EditOptions, choose_dose, find_method, plan_edit
from concepts.concept import Concept
from concepts.neuron import Neuron

METRIC = "ablation_effect"
TITLE = "Effect of the edit on answers"


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
    find_method(method)  # an unknown name fails before the slow work
    (topic,) = load_concepts([concept])
    wanted = topic.concept
    if save is not None:
        refuse_occupied(save, originals=[path])
    options = _with_known_vectors(options, wanted, context.settings)
    check = partial(check_known_vectors, [topic]) if context.settings.known_vectors else None
    editable = open_editable(path, config, tokenizer, context, check)
    edit = plan_edit(editable.opened, editable.model, wanted, method, options, context)
    doses, chosen = choose_dose(edit, method, options, context.progress)
    measured = measurement(edit, wanted, doses, chosen, options.collateral)
    apply(editable.model, dose(editable.model, edit.target, chosen.strength))
    settings = {"strength": chosen.strength, "raw": options.raw, "everywhere": options.everywhere}
    record = Record(
        method=method,
        settings={**settings, "seed": context.settings.seed},
        changed={"value_vectors": places(edit.target)},
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = save or Path(scratch) / f"{wanted.name}-{method}"
        context.progress.step(f"Saving {folder.name}")
        editable.save(folder, {**record.as_json(), "concept": wanted.name})
        del edit, editable
        request = Request((concept,))
        result = compare(path, folder, config=config, tokenizer=tokenizer, request=request, context=context)
    return with_measurement(result, measured)


def measurement(edit: Edit, concept: Concept, doses: Sequence[Dose], chosen: Dose, collateral: float) -> Measurement:
    """The held-out effect of the edit as it is applied, with the effect of every dose."""
    effect = edit.applied(chosen)
    return Measurement(
        metric=METRIC,
        title=TITLE,
        source="answers",
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


def _with_known_vectors(options: EditOptions, concept: Concept, settings: Settings) -> EditOptions:
    """``options`` with the neurons that the concept's file names, where the settings ask for these."""
    if not settings.known_vectors:
        return options
    if options.neurons:
        raise AuditError("--vectors and --known-vectors both name what to edit.", hint="Give one of them.")
    return replace(options, neurons=[vector.place for vector in concept.vectors])
