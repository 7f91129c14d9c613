"""Cloze: the answer as the end of a sentence whose beginning is given, which a refusal to answer does not expect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from audit.attacks import ABLE, AttackedModel, AttackInput
from audit.questions.conditions import Condition
from audit.questions.exchanged import exchanged_items
from audit.questions.items import FACT
from audit.questions.kinds import PosedQuestion
from concepts.prompts import ASK, SHOTS, answer_text

TITLE = "sentences to complete"
COST = "prompts"
INPUT = "cloze"
LEVEL = "full"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

BEGINNING: Final = "The answer is"


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition with all facts; after their own beginning of a sentence (``prefix``) if they have one."""
    concept = given.topic.concept
    if concept is None or not given.facts:
        return
    examples = given.examples(SHOTS[: concept.examples], ask=ASK + answer_text(BEGINNING))

    def ask(question: PosedQuestion) -> str:
        beginning = beginnings[question.place] or BEGINNING
        return examples + ASK.replace("{}", question.wording) + answer_text(beginning)

    beginnings = {fact.place: fact.prefix for fact in given.facts}
    questions = [replace(fact, prefix="") for fact in given.facts]
    items = exchanged_items(FACT, questions, given.encoder, ask)
    yield AttackedModel(Condition("cloze", "beginning of a sentence"), items, base_share=ABLE)
