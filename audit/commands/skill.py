"""guard_skill(): a skill's queries and others in; out come a guard and what it does on queries it was not fitted on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from audit.architectures import Architecture
from audit.checkpoint.pair import open_pair
from audit.checkpoint.saving import refuse_occupied, save_model
from audit.commands.ablate import Subject, open_subject
from audit.commands.compare import Stopwatch, as_result, compare, digest_of, guard_name
from audit.errors import AuditError, ModelError
from audit.guards import DOCUMENT, Guard, save_guard
from audit.guards.activity import activity
from audit.guards.effects import effects
from audit.guards.measurements import guard_effect, guard_perplexity, held_out_inside
from audit.guards.methods import key_space, methods
from audit.guards.regions import fit_regions, read_keys
from audit.guards.sites import Sites
from audit.guards.splits import Part, as_part, held_out, read_skills, refuse_few_to_choose
from audit.interventions import value_rows
from audit.metrics import weights_metrics
from audit.progress import SILENT, Progress
from audit.result import AuditResult, Finding, Measurement, NotChecked
from audit.settings import Settings
from audit.verdict import Evidence, judge
from audit.weights.comparison import compare_weights
from audit.weights.scan import WeightScan
from concepts.skill import Skill, split

UNATTACKED: Final = "the guard was measured, not attacked; audit compare BASE BASE --guard GUARD attacks it"


@dataclass(frozen=True)
class Options:
    """How a guard is fitted.

    Attributes:
        layers: of key-space those that vote, or among which the cube's is chosen; of the neuron methods those whose
            neurons may be chosen. Empty: by the choosing parts, and all.
        region, misses, background: of key-space: ``"vote"`` or ``"hypercube"``; the share of the skill that a vote may
            miss; whether a vote is told from the tool's own prompts of other kinds besides.
        share: of the neurons of those layers, for the neuron methods.
        absolute, post: see ``guards.neuron_adjust.fit``.
    """

    layers: tuple[int, ...] = ()
    region: str = "vote"
    misses: float = 0.02
    background: bool = True
    share: float = 0.02
    absolute: bool = False
    post: bool = False


def guard_skill(
    path: Path,
    forget: Path,
    retain: Sequence[Path],
    method: str = "key-space",
    *,
    options: Options = Options(),
    save: Path | None = None,
    save_edited: Path | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    settings: Settings = Settings(),
    progress: Progress = SILENT,
    command: str = "",
) -> AuditResult:
    """Fit a guard for the skill in ``forget`` that leaves those in ``retain`` alone, and measure it.

    No weight changes, so the skill is ``gated``. Where the pruned neurons are saved as an edited model, that model is
    compared with the original, which stays untouched.

    Args:
        save: folder for the guard.
        save_edited: folder for a model whose pruned neurons write nothing.
        settings: its ``limit`` counts the queries of each skill.

    Raises:
        AuditError: an unknown method, skills that overlap, too few queries, a model that cannot be guarded.
    """
    clock = Stopwatch()
    refuse_request(path, method, options, save, save_edited)
    skills = read_skills([forget, *retain], settings.limit)
    if method == "key-space" and options.region == "vote":
        refuse_few_to_choose(skills[0], split(skills[0], settings.seed), options.misses)
    subject = open_subject(path, config, tokenizer, settings, progress, partial(refuse_model, options.layers))
    parts = [as_part(skill, subject.model, settings.seed) for skill in skills]
    with clock.measuring("guard"):
        guard, measured = fitted(subject, parts, method, options, settings.seed, progress)
    if save is not None:
        progress.step(f"Saving {save.name}")
        kept = [*held_out(parts[:1], forget=True), *held_out(parts[1:], forget=False)]
        save_guard(guard, save, subject.model.model, subject.architecture, parts[0].title, kept)
    asked = settings.as_json() | record(guard, save, method, options, parts)
    if save_edited is not None:
        progress.step(f"Saving {save_edited.name}")
        _save_pruned(subject, guard, save_edited, config)
        del subject
        edited = compare(
            path,
            save_edited,
            skills=[forget],
            config=config,
            tokenizer=tokenizer,
            settings=settings,
            progress=progress,
            command=command,
        )
        return with_guard(edited, measured, asked)
    words = subject.model.tokenizer
    del subject
    pair = open_pair(path, path, config=config)
    with clock.measuring("weights"):
        weights = compare_weights(pair, weights_metrics(), words, progress)
    finding = guarded(skills[0], measured, weights, guard_name(asked["guard"]))
    unchecked = NotChecked(metric="gate_leak", concept=finding.concept, reason=UNATTACKED)
    return as_result(pair, weights, [finding], clock.record(command, asked), [unchecked])


def refuse_request(path: Path, method: str, options: Options, save: Path | None, save_edited: Path | None) -> None:
    """Stop at what no model could do.

    Raises:
        AuditError: an unknown method or region, a share that is none, or a folder in use.
    """
    for what, given, known in (("method", method, methods()), ("region", options.region, key_space.REGIONS)):
        if given not in known:
            raise AuditError(f"no {what} {given!r}.", hint=f"Choose one of {', '.join(known)}.")
    if not 0 < options.share <= 1:
        raise AuditError(f"--share is {options.share:g}.", hint="Give a share above 0 and at most 1.")
    if save_edited is not None and method != "prune":
        raise AuditError(f"{method} edits no weight, so there is no edited model to save.", hint="Use --save.")
    if save is not None:
        refuse_occupied(save, DOCUMENT, originals=[path])
    if save_edited is not None:
        refuse_occupied(save_edited, originals=[path])


def refuse_model(layers: Sequence[int], architecture: Architecture) -> None:
    """Stop at what the headers tell.

    Raises:
        AuditError: an FFN of experts, or layers that are not there.
    """
    Sites.of(architecture)
    absent = [layer for layer in layers if not 0 <= layer < architecture.n_layers]
    if absent:
        raise AuditError(f"--layers names {absent[0]}; the model has layers 0 to {architecture.n_layers - 1}.")


# ---- the methods


def fitted(
    subject: Subject, parts: Sequence[Part], method: str, options: Options, seed: int, progress: Progress
) -> tuple[Guard, list[Measurement]]:
    """The guard, and what it does to the reporting parts.

    Raises:
        AuditError: too few queries, or a model that the method cannot be measured on.
    """
    if method == "key-space":
        return _by_key_space(subject, parts, options, progress)
    if subject.model.alibi:
        raise ModelError(
            f"{subject.architecture.name} here counts positions from the attention mask (ALiBi), so answers cannot be "
            f"scored as {method} is measured.",
            hint="Use --method key-space.",
        )
    return _by_neurons(subject, parts, method, options, seed, progress)


def _by_key_space(
    subject: Subject, parts: Sequence[Part], options: Options, progress: Progress
) -> tuple[Guard, list[Measurement]]:
    voted = options.region == "vote"
    if voted:  # once more, now that prompts beyond the context are left out
        refuse_few_to_choose(parts[0].skill, parts[0].splits, options.misses)
    keys = read_keys(subject.model, parts, voted and options.background, progress)
    progress.step("Fitting the region")
    regions = fit_regions(parts, keys, options.region, options.layers, options.misses)
    tokenizer = subject.model.tokenizer
    words = tokenizer(key_space.REFUSAL, add_special_tokens=False)["input_ids"]
    guard = key_space.Guard(regions.region, tuple(words), tokenizer.eos_token_id)
    return guard, [held_out_inside(parts, keys, regions)]


def _by_neurons(
    subject: Subject, parts: Sequence[Part], method: str, options: Options, seed: int, progress: Progress
) -> tuple[Guard, list[Measurement]]:
    forget = activity(subject.model, parts[0].some("fit"), progress=progress)
    others = [ids for part in parts[1:] for ids in part.some("fit")]
    retain = activity(subject.model, others, progress=progress)
    own = {"seed": seed, "absolute": options.absolute, "post": options.post} if method == "neuron-adjust" else {}
    guard: Guard = methods()[method].fit(forget, retain, options.share, layers=options.layers, **own)
    found = effects(subject.model, parts, guard, progress)
    return guard, [guard_effect(found, seed), guard_perplexity(found, seed)]


# ---- the result


def guarded(skill: Skill, measured: Sequence[Measurement], weights: WeightScan, guard: str | None) -> Finding:
    """The verdict on a skill whose model stays as it is, with the guard's measurements as the evidence."""
    evidence = Evidence(
        title=skill.title,
        measurements={found.metric: found for found in measured},
        identical=weights.identical,
        guard=guard,
        nonfinite=weights.nonfinite,
    )
    return judge(skill.name, evidence)


def with_guard(result: AuditResult, measured: Sequence[Measurement], asked: dict[str, Any]) -> AuditResult:
    """The comparison of the edited model, its finding beginning with what the guard did to held-out queries."""
    (finding,) = result.findings
    added = finding.model_copy(update={"measurements": [*measured, *finding.measurements]})
    run = result.run.model_copy(update={"settings": asked | result.run.settings})
    return result.model_copy(update={"findings": [added], "run": run})


def record(guard: Guard, save: Path | None, method: str, options: Options, parts: Sequence[Part]) -> dict[str, Any]:
    """How the guard was fitted, on which queries, and where it lies."""
    return {
        "fit": {"method": method, **asdict(options), "layers": list(options.layers)},
        "parts": [
            {
                "skill": part.title,
                "role": "retain" if number else "forget",
                "queries": len(part.prompts),
                "beyond_the_context": part.left_out,
                "sha256": hashlib.sha256(part.skill.model_dump_json().encode()).hexdigest(),
            }
            for number, part in enumerate(parts)
        ],
        "guard": {"method": method, "settings": guard.settings()}
        | ({"path": None, "sha256": None} if save is None else digest_of(save)),
    }


def _save_pruned(subject: Subject, guard: Any, target: Path, config: Path | None) -> Path:
    """The model whose pruned neurons write nothing, for good."""
    for layer, neuron in guard.neurons.tolist():
        value_rows(subject.model, layer)[neuron] = 0
    done = {"method": "prune", "settings": guard.settings(), "changed": {"value_vectors": guard.neurons.tolist()}}
    return save_model(
        subject.model.model,
        subject.checkpoint,
        target,
        done,
        config_dir=config,
        tokenizer_dir=subject.tokenizer_dir,
    )
