"""Paraphrases: each fact asked in its other wordings, and in other languages where it has translations.

Unlearning that was trained on one wording may leave others. Answers to translated questions are given in English, as
the examples before them show, so that they are scored in the same tokens.

What makes it wrong: wordings that the unlearning was trained on prove nothing if the model is silent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from audit.attacks import AttackedModel, AttackInput
from audit.questions.conditions import Condition
from audit.questions.exchanged import exchanged_items
from audit.questions.items import FACT
from audit.questions.kinds import PosedQuestion
from audit.questions.kinds.paraphrase import WORDINGS
from concepts.concept import Concept
from concepts.facts import facts_of
from concepts.prompts import few_shot

TITLE = "other wordings"
COST = "prompts"
INPUT = "wordings"
LEVEL = "quick"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

Wordings = Mapping[str, Mapping[int, str]]
"""Dose -> index of the fact -> its wording."""


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition for each number of a wording and each language, with the facts that have it."""
    concept = given.topic.concept
    wordings = {f"wording {number + 1}": wordings_in(concept, "paraphrases", number) for number in range(WORDINGS)}
    yield from asked_in(given, "paraphrase", {**wordings, **translated(concept)})


def translated(concept: Concept | None) -> Wordings:
    """``"in de"`` -> the questions' translations."""
    wordings: dict[str, dict[int, str]] = {}
    for place, fact in enumerate(() if concept is None else facts_of(concept)):
        for language, wording in fact.question.translations.items():
            wordings.setdefault(f"in {language}", {})[place] = wording
    return wordings


def asked_in(given: AttackInput, attack: str, wordings: Wordings, base_share: float = 0.0) -> Iterator[AttackedModel]:
    """One condition for each dose, with the facts that have such a wording, after the audit's examples."""
    concept = given.topic.concept
    if concept is None:
        return
    ask = partial(_ask, given.avoid, concept.examples)
    for dose, by_place in wordings.items():
        questions = [replace(fact, wording=by_place[fact.place]) for fact in given.facts if fact.place in by_place]
        if questions:
            items = exchanged_items(FACT, questions, given.encoder, ask)
            yield AttackedModel(Condition(attack, dose), items, base_share=base_share)


def wordings_in(concept: Concept | None, field: str, number: int) -> Mapping[int, str]:
    """Index of the fact -> wording ``number`` of those in ``field`` of its question, where it has so many."""
    wordings: dict[int, str] = {}
    for place, fact in enumerate(() if concept is None else facts_of(concept)):
        given: Sequence[str] = getattr(fact.question, field)
        if number < len(given):
            wordings[place] = given[number]
    return wordings


def _ask(avoid: list[str], examples: int, question: PosedQuestion) -> str:
    return few_shot(question.wording, avoid, examples)
