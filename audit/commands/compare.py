"""compare(): audit an unlearned checkpoint against its base, and optionally against a retained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from audit.attacks import attacks, chosen_attacks, without_null
from audit.commands._result import Stopwatch, as_result, digest_of, settings_of
from audit.evidence import check_known_vectors, gather
from audit.guards.attack import attack_guard
from audit.guards.saving import SavedGuard, open_guard
from audit.knowledge.knowledge import knowledge_of
from audit.knowledge.summary import Summary, summarise
from audit.metrics import measure, topic_metrics, weights_metrics
from audit.metrics.contract import Evidence
from audit.models.pair import ModelPair, open_pair
from audit.questions.loading import load_topics
from audit.request import Request, RunContext
from audit.result import AuditResult, Finding, Measurement, NotChecked
from audit.verdict import Case, judge
from audit.weights.comparison import compare_weights
from audit.weights.scan import WeightScan


def compare(
    base: Path | str,
    unlearned: Path | str,
    *,
    retained: Path | str | None = None,
    reference: Path | str | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    request: Request = Request(),
    context: RunContext = RunContext(),
) -> AuditResult:
    """Audit ``unlearned`` against ``base``: changes of the weights, and remaining knowledge of each topic.

    Args:
        base, unlearned, retained: weight files or folders.
        reference: any language model that never saw the data; a retained model serves as one.
        config, tokenizer: folders, if they are not next to the weights.
        request: concepts, skills and a guard.
        context: settings, progress and the recorded command line.

    Raises:
        AuditError: an input that cannot be audited; the message is one line.
    """
    clock, progress = Stopwatch(), context.progress
    topics = load_topics(request, context.settings)
    protection = digest_of(request.guard) if request.guard is not None else None
    saved = open_guard(request.guard)
    chosen_attacks(context.settings.attacks)  # an unknown name is an error before anything is read
    others = [None if path is None else Path(path) for path in (retained, reference)]
    pair = open_pair(Path(base), Path(unlearned), others[0], config, tokenizer, others[1])
    if context.settings.known_vectors:
        check_known_vectors(topics, pair.architecture)
    with clock.measuring("weights"):
        weights = compare_weights(pair, weights_metrics(), pair.tokenizer, progress)
    with clock.measuring("readings"):
        evidence = gather(pair, topics, weights, context)
    with clock.measuring("metrics"):
        findings = [conclude(evidence[topic.name], weights, request.guard) for topic in topics]
        attacked = examine_guard(pair, saved, weights.identical, context)
        if attacked or not findings:
            findings.append(judge(None, whole_pair(pair, weights, request.guard, attacked)))
    record = clock.record(context.command, settings_of(topics, protection, context.settings))
    return as_result(pair, weights, findings, record, [row for each in evidence.values() for row in _not_run(each)])


def conclude(evidence: Evidence, weights: WeightScan, guard: Path | None) -> Finding:
    """Measure every metric for one topic and judge it."""
    case = Case(
        title=evidence.topic.title,
        measurements={name: measure(name, evidence) for name in topic_metrics()},
        under_attack=[
            measure(name, evidence.under(condition))
            for attack_name, attack in attacks().items()
            for condition in evidence.conditions(attack_name)
            for name in attack.METRICS
        ],
        identical=weights.identical,
        equal_at_coarser=weights.equal_at_coarser,
        guard=guard.name if guard else None,
        nonfinite=weights.nonfinite,
        missing=evidence.missing,
        summary=summary_of(evidence),
        not_run=evidence.not_run,
        attacked=frozenset(name for name in attacks() if evidence.conditions(name)),
    )
    return judge(evidence.topic.name, case)


def summary_of(evidence: Evidence) -> Summary | None:
    """What the models know of the topic's facts; ``None`` if no answer could be checked."""
    concept = evidence.topic.concept
    unseen = without_null(independent=concept is not None and bool(concept.independent))
    knowledge = knowledge_of(evidence.by_condition, evidence.others, _guessable(evidence), evidence.seed, unseen)
    titles = {name: attack.TITLE for name, attack in attacks().items()}
    return None if knowledge is None else summarise(knowledge, titles)


def _not_run(evidence: Evidence) -> Iterator[NotChecked]:
    """The attacks and conditions that did not run on base or unlearned model, each once."""
    rows = {name: why for (role, name), why in evidence.not_run.items() if role in ("base", "unlearned")}
    for name, why in rows.items():
        yield NotChecked(metric=name, concept=evidence.topic.name, reason=why)


def _guessable(evidence: Evidence) -> bool:
    """Whether answers may be guessed from their questions, as far as is known."""
    concept = evidence.topic.concept
    return concept is None or not concept.not_guessable


def examine_guard(
    pair: ModelPair,
    guard: SavedGuard | None,
    identical: bool,
    context: RunContext,
) -> list[Measurement]:
    """The measurements of a guard of this tool under attack; empty for other guards."""
    if guard is None:
        return []
    return attack_guard(guard, pair.unlearned, None if identical else pair.base, context.settings, context.progress)


def whole_pair(pair: ModelPair, weights: WeightScan, guard: Path | None, attacked: Sequence[Measurement] = ()) -> Case:
    """The input of the rules for the pair as a whole."""
    return Case(
        title=None,
        measurements={measurement.metric: measurement for measurement in attacked},
        identical=weights.identical,
        equal_at_coarser=weights.equal_at_coarser,
        guard=guard.name if guard else None,
        nonfinite=weights.nonfinite,
        missing=pair.base.missing,
    )
