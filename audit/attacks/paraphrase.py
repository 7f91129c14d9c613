"""Paraphrases: each fact asked in its other wordings, and in other languages where it has translations.

Unlearning that was trained on one wording may leave others. Answers to translated questions are given in English, as
the examples before them show, so that they are scored in the same tokens.

What makes it wrong: wordings that the unlearning was trained on prove nothing if the model is silent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition for each number of a wording and each language, with the facts that have it."""
    concept = given.topic.concept
    if concept is None:
        return
    ask = partial(_ask, given.avoid, concept.examples)
    for dose, wordings in other_wordings(concept).items():
        questions = [replace(fact, wording=wordings[fact.place]) for fact in given.facts if fact.place in wordings]
        if questions:
            yield AttackedModel(Condition("paraphrase", dose), exchanged_items(FACT, questions, given.encoder, ask))


def other_wordings(concept: Concept) -> Mapping[str, Mapping[int, str]]:
    """``"wording 1"``, ``"in de"`` -> index of the fact -> its wording."""
    wordings: dict[str, dict[int, str]] = {}
    for place, fact in enumerate(facts_of(concept)):
        for number, wording in enumerate(fact.question.paraphrases[:WORDINGS], start=1):
            wordings.setdefault(f"wording {number}", {})[place] = wording
        for language, wording in fact.question.translations.items():
            wordings.setdefault(f"in {language}", {})[place] = wording
    return wordings


def _ask(avoid: list[str], examples: int, question: PosedQuestion) -> str:
    return few_shot(question.wording, avoid, examples)
