"""guard_skill(): fit a guard to the queries of a skill, and measure it on queries that it was not fitted on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from audit.architectures import Architecture
from audit.checkpoint.saving import refuse_occupied
from audit.commands._result import Stopwatch, as_result, digest_of, guard_name
from audit.commands.compare import compare
from audit.errors import AuditError
from audit.guards.methods import (
    FittedGuard,
    Guard,
    GuardOptions,
    OptionValue,
    WritableGuard,
    find_method,
    is_writable,
    method_of,
    options_for,
)
from audit.guards.saving import DOCUMENT, save_guard
from audit.guards.sites import Sites
from audit.guards.splits import TokenizedSkill, attack_queries, read_skills, tokenize_skill
from audit.metrics import weights_metrics
from audit.models.editable import EditableModel, open_editable
from audit.models.pair import open_pair
from audit.request import Request, RunContext
from audit.result import AuditResult, Finding, Measurement, NotChecked
from audit.verdict import Case, judge
from audit.weights.comparison import compare_weights
from audit.weights.scan import WeightScan
from concepts.skill import Skill, split

UNATTACKED: Final = "the guard was measured, not attacked; audit compare BASE BASE --guard GUARD attacks it"


@dataclass(frozen=True)
class GuardRequest:
    """Which skill is guarded, how, and what is saved.

    Attributes:
        forget, retain: files of queries: the skill to guard, and those to leave alone.
        options: values for the method's options; those of other methods are ignored (``options_for``).
        save: folder for the guard.
        save_edited: folder for a model with the guard written into its weights.
    """

    forget: Path
    retain: Sequence[Path]
    method: str = "key-space"
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    save: Path | None = None
    save_edited: Path | None = None


def guard_skill(
    path: Path,
    request: GuardRequest,
    *,
    config: Path | None = None,
    tokenizer: Path | None = None,
    context: RunContext = RunContext(),
) -> AuditResult:
    """Fit a guard for a skill of the model in ``path``, and measure it.

    No weight changes, so the skill is ``gated``. Where the guard is written into an edited model, that model is
    compared with the original, which stays untouched.

    Args:
        context: the ``limit`` of its settings counts the queries of each skill.

    Raises:
        AuditError: an unknown method, skills that overlap, too few queries, a model that cannot be guarded.
    """
    clock, settings = Stopwatch(), context.settings
    options = check_request(path, request)
    skills = read_skills([request.forget, *request.retain], settings.limit)
    options.check_skill(skills[0], split(skills[0], settings.seed))
    editable = open_editable(path, config, tokenizer, context, partial(check_architecture, options))
    tokenized = [tokenize_skill(skill, editable.model, settings.seed) for skill in skills]
    with clock.measuring("guard"):
        fitted = find_method(request.method).fit(editable.model, tokenized, options, settings.seed, context.progress)
    _save(editable, fitted.guard, tokenized, request, context)
    recorded = settings.as_json() | record(fitted.guard, request, options, tokenized)
    del editable
    if request.save_edited is not None:
        edited = compare(
            path,
            request.save_edited,
            config=config,
            tokenizer=tokenizer,
            request=Request(skills=(request.forget,)),
            context=context,
        )
        return with_guard(edited, fitted, recorded)
    pair = open_pair(path, path, config=config, tokenizer=tokenizer)
    with clock.measuring("weights"):
        weights = compare_weights(pair, weights_metrics(), pair.tokenizer, context.progress)
    finding = gated(skills[0], fitted, weights, guard_name(recorded["guard"]))
    unattacked = NotChecked(metric="gate_leak", concept=finding.concept, reason=UNATTACKED)
    return as_result(pair, weights, [finding], clock.record(context.command, recorded), [unattacked])


# ---- before the slow work


def check_request(path: Path, request: GuardRequest) -> GuardOptions:
    """The method's options, once everything that depends on no model has been checked.

    Raises:
        AuditError: an unknown method, an option that is not allowed, or a folder in use.
    """
    options = options_for(request.method, request.options)
    if request.save_edited is not None and not is_writable(request.method):
        raise AuditError(f"{request.method} edits no weight, so there is no edited model to save.", hint="Use --save.")
    if request.save is not None:
        refuse_occupied(request.save, DOCUMENT, originals=[path])
    if request.save_edited is not None:
        refuse_occupied(request.save_edited, originals=[path])
    return options


def check_architecture(options: GuardOptions, architecture: Architecture) -> None:
    """Stop at what the headers show.

    Raises:
        AuditError: an FFN of experts, or layers that the model does not have.
    """
    Sites.from_architecture(architecture)
    absent = [layer for layer in options.layers if not 0 <= layer < architecture.n_layers]
    if absent:
        raise AuditError(f"layers names {absent[0]}; the model has layers 0 to {architecture.n_layers - 1}.")


# ---- what is saved


def _save(
    editable: EditableModel,
    guard: Guard,
    skills: Sequence[TokenizedSkill],
    request: GuardRequest,
    context: RunContext,
) -> None:
    """The guard's folder and the edited model, as far as they are requested. Edits the model in memory."""
    if request.save is not None:
        context.progress.step(f"Saving {request.save.name}")
        save_guard(guard, request.save, editable.model, skills[0].title, attack_queries(skills))
    if request.save_edited is not None:
        context.progress.step(f"Saving {request.save_edited.name}")
        assert isinstance(guard, WritableGuard), "checked with the request"
        edit = {"method": method_of(guard), "settings": guard.save().settings, "changed": guard.write(editable.model)}
        editable.save(request.save_edited, edit)


# ---- the result


def gated(skill: Skill, fitted: FittedGuard, weights: WeightScan, guard: str | None) -> Finding:
    """The verdict on a skill of a model that stays as it is; the guard's measurements are the evidence."""
    case = Case(
        title=skill.title,
        measurements={measurement.metric: measurement for measurement in fitted.measurements},
        identical=weights.identical,
        guard=guard,
        nonfinite=weights.nonfinite,
    )
    return judge(skill.name, case)


def with_guard(result: AuditResult, fitted: FittedGuard, recorded: Mapping[str, Any]) -> AuditResult:
    """The comparison of the edited model; its finding begins with what the guard did to held-out queries."""
    (finding,) = result.findings
    measurements: list[Measurement] = [*fitted.measurements, *finding.measurements]
    run = result.run.model_copy(update={"settings": {**recorded, **result.run.settings}})
    return result.model_copy(
        update={"findings": [finding.model_copy(update={"measurements": measurements})], "run": run}
    )


def record(
    guard: Guard, request: GuardRequest, options: GuardOptions, skills: Sequence[TokenizedSkill]
) -> dict[str, Any]:
    """How the guard was fitted, on which queries, and where it is saved."""
    chosen = {**request.options, **asdict(options)}
    folder = {"path": None, "sha256": None} if request.save is None else digest_of(request.save)
    return {
        "fit": {
            "method": request.method,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()},
        },
        "parts": [
            {
                "skill": skill.title,
                "role": "retain" if number else "forget",
                "queries": len(skill.prompts),
                "beyond_the_context": skill.too_long,
                "sha256": hashlib.sha256(skill.skill.model_dump_json().encode()).hexdigest(),
            }
            for number, skill in enumerate(skills)
        ],
        "guard": {"method": request.method, "settings": guard.save().settings} | folder,
    }
