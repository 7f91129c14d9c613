"""Reversed facts: the answer is given, and the subject asked for.

Only facts whose subject has one fact with this answer can be reversed. Nothing is exchanged: the answer in the prompt
is the true one, and an exchange of subjects would not be an exchange of answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from audit.attacks import ABLE, AttackedModel, AttackInput
from audit.questions.conditions import Condition
from audit.questions.exchanged import after, exchanged_items
from audit.questions.items import FACT
from audit.questions.kinds import PosedQuestion
from concepts.concept import Concept
from concepts.facts import facts_of
from concepts.prompts import normalise

TITLE = "reversed facts"
COST = "prompts"
INPUT = "reversed"
LEVEL = "full"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

FORM: Final = '"{}" is the answer to a question about which subject?'
EXAMPLES: Final = (
    ("Pacific Ocean", "The largest ocean"),
    ("William Shakespeare", "Hamlet"),
    ("Carbon dioxide", "Plants"),
)
SPARE: Final = (("Honey", "Bees"), ("Mercury", "Metals"), ("Three", "Triangles"))


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition with the facts that can be reversed."""
    concept = given.topic.concept
    questions = [] if concept is None else _reversed(concept, given.facts)
    if concept is None or not questions:
        return
    pairs = [[(FORM.replace("{}", answer), subject) for answer, subject in each] for each in (EXAMPLES, SPARE)]
    examples = given.examples(pairs[0][: concept.examples], pairs[1])
    items = exchanged_items(FACT, questions, given.encoder, after(examples))
    yield AttackedModel(Condition("reversed", "answer to subject"), items, base_share=ABLE)


def _reversed(concept: Concept, facts: list[PosedQuestion]) -> list[PosedQuestion]:
    """The facts whose subject is named and whose answer no other fact has, with answer and subject exchanged."""
    named = {place for place, fact in enumerate(facts_of(concept)) if fact.subject != fact.question.question}
    times = Counter(normalise(fact.answer or "") for fact in facts)
    return [
        replace(
            fact,
            wording=FORM.replace("{}", f"{fact.prefix} {fact.answer}".strip()),
            answer=fact.subject,
            answers=(fact.subject,),
            type=None,
            prefix="",
        )
        for fact in facts
        if fact.place in named and times[normalise(fact.answer or "")] == 1
    ]
