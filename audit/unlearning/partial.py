"""The partial-identification curve: unlearn some facts of each subject, read the others (arXiv 2402.14015).

Whoever asks for removal can seldom list everything. A method that removes what is known of a subject takes along facts
that were not listed, the more of them are listed; one that suppresses what was listed leaves them as they were.

What makes it wrong: facts that give each other away. Of facts of one subject whose answers or questions mention each
other's answers only the first is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from audit.errors import AuditError
from audit.knowledge.readings import fact_readings, facts_in
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.questions.conditions import AS_IS
from audit.questions.items import FACT, Encoder, with_short_answers
from audit.questions.readings import write_and_read
from audit.questions.topics import ConceptTopic
from audit.unlearning.fine_tuning import preserved
from audit.unlearning.methods import Method
from audit.unlearning.training import MethodSettings
from concepts.concept import Concept
from concepts.facts import Fact, facts_of
from concepts.prompts import mentions, overlap

SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
FEWEST: Final = 2
"""Facts of a subject, of which one can be listed and another not."""


@dataclass(frozen=True)
class Usable:
    """The facts whose subjects can be split.

    Attributes:
        ids: of the facts among those of the concept, ``"fact/3"``.
        entailed: number of facts that were left out because they and an earlier one of their subject tell each other.
        alone: number of facts that were left out because no other one of their subject remains.
    """

    facts: tuple[Fact, ...]
    ids: tuple[str, ...]
    entailed: int
    alone: int

    def listed(self, share: float, seed: int) -> Bool[np.ndarray, " n_facts"]:
        """A random ``share`` of each subject's facts; what a smaller share lists is part of it.

        A number of facts that is not whole is rounded up for some subjects and down for the others.
        """
        listed = np.zeros(len(self.facts), dtype=bool)
        subjects = list(dict.fromkeys(fact.subject for fact in self.facts))
        Random(seed).shuffle(subjects)
        for number, subject in enumerate(subjects):
            own = [place for place, fact in enumerate(self.facts) if fact.subject == subject]
            Random(f"{seed}, {subject}").shuffle(own)
            listed[own[: int(share * len(own) + (number + 0.5) / len(subjects))]] = True
        return listed


@dataclass(frozen=True)
class Point:
    """The facts after the listed ones were unlearned.

    Attributes:
        share: of each subject's facts that were listed.
        says: whether each fact is said; NaN if it cannot be asked.
        nats: centred score of each true answer (``FactReadings.nats``); NaN if it cannot be read.
    """

    share: float
    listed: Bool[np.ndarray, " n_facts"]
    says: Float[np.ndarray, " n_facts"]
    nats: Float[np.ndarray, " n_facts"]


def usable_facts(concept: Concept) -> Usable:
    """The facts that do not tell an earlier one of their subject, of subjects with at least ``FEWEST`` of them."""
    facts = facts_of(concept)
    kept: list[int] = []
    for place, fact in enumerate(facts):
        if not any(facts[other].subject == fact.subject and _entail(facts[other], fact) for other in kept):
            kept.append(place)
    counts = Counter(facts[place].subject for place in kept)
    places = [place for place in kept if counts[facts[place].subject] >= FEWEST]
    return Usable(
        facts=tuple(facts[place] for place in places),
        ids=tuple(f"{FACT}/{place}" for place in places),
        entailed=len(facts) - len(kept),
        alone=len(kept) - len(places),
    )


def _entail(one: Fact, other: Fact) -> bool:
    """Whether the answers overlap, or a question mentions the other's answer."""
    asked = any(
        mentions(wording, [of.answer])
        for asks, of in ((one, other), (other, one))
        for wording in asks.question.wordings
    )
    return asked or overlap(one.answer, other.answer)


def partial_curve(
    model: RunningModel,
    concept: Concept,
    method: Method,
    settings: MethodSettings,
    examples: Callable[[Sequence[Fact]], Sequence[Example]],
    retain: Sequence[Example],
    shares: Sequence[float] = SHARES,
    progress: Progress = SILENT,
) -> Iterator[Point]:
    """The facts of ``usable_facts`` after each share of them was unlearned, always from the model as it is.

    With a share of 0 nothing is trained; with 1 it is the ordinary run on these facts. ``model`` is the unlearned one
    until the next point is asked for, and as it was at the end.

    Args:
        examples: what the method is given of the facts to forget.

    Raises:
        AuditError: no subject has facts to split, or a share is not between 0 and 1; see also ``Method.unlearn``.
    """
    usable = usable_facts(concept)
    if not usable.facts:
        raise AuditError(
            f"no subject of {concept.title} has {FEWEST} facts that do not tell each other.",
            hint="Name the subject of each question.",
        )
    if any(not 0 <= share <= 1 for share in shares):
        raise AuditError("a share of the facts lies between 0 and 1.")
    for share in shares:
        listed = usable.listed(share, settings.seed)
        forget = [fact for fact, chosen in zip(usable.facts, listed, strict=True) if chosen]
        with preserved(model):
            if forget:
                method.unlearn(model, examples(forget), retain, settings, progress)
            says, nats = _read(model, concept, usable.ids)
            yield Point(share, listed, says, nats)


def _read(
    model: RunningModel, concept: Concept, ids: Sequence[str]
) -> tuple[Float[np.ndarray, " n_facts"], Float[np.ndarray, " n_facts"]]:
    """``says`` and ``nats`` of the facts with these ids, as the audit reads them."""
    topic, encoder = ConceptTopic(concept), Encoder(model.tokenizer, model.context)
    items = with_short_answers(topic.items(encoder).facts(), encoder)
    (readings,) = write_and_read(model, {AS_IS: items}, {}).values()
    readings = replace(readings, right=topic.check(items, readings.generated))
    facts = facts_in(readings)
    read = fact_readings(facts, {AS_IS: readings})[str(AS_IS)]
    values = {name: (says, nats) for name, says, nats in zip(facts.ids, read.says, read.nats(), strict=True)}
    says, nats = np.array([values.get(name, (np.nan, np.nan)) for name in ids]).T
    return says, nats
