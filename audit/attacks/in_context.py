"""Other facts in the context: half of the concept's facts with their answers come before a question about the other.

UnUnlearning (arXiv 2407.00106) brings unlearned knowledge back by text in the context. Here the text never holds an
answer that is read: facts are divided by subject into the same halves as for relearning, and a fact of the given half
is left out if it mentions an answer of the other one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from audit.attacks import AttackedModel, AttackInput
from audit.questions.conditions import Condition
from audit.questions.exchanged import after, exchanged_items
from audit.questions.items import FACT, ItemSet
from audit.questions.kinds import PosedQuestion
from concepts.facts import facts_of, halves
from concepts.prompts import ASK, answer_text, mentions

TITLE = "other facts in the context"
COST = "prompts"
INPUT = "in_context"
LEVEL = "quick"
RECOVERS = True
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

DOSE: Final = "half of the facts"
MOST: Final = 20
"""Facts in the context; about 350 tokens."""


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition for each half that is read."""
    concept = given.topic.concept
    if concept is None or not given.facts:
        return
    seed = given.settings.seed
    half = halves(facts_of(concept)[: given.settings.limit], seed)
    for fold in (0, 1):
        read = [fact for fact in given.facts if half[fact.subject] == fold]
        others = [fact for fact in given.facts if half[fact.subject] != fold]
        if read:
            yield AttackedModel(Condition("in_context", DOSE, seed, fold), _items(given, read, others))


def _items(given: AttackInput, read: Sequence[PosedQuestion], others: Sequence[PosedQuestion]) -> ItemSet:
    answers = [answer for fact in read for answer in fact.answers]
    told = [text for fact in others if not mentions(text := _told(fact), answers)][:MOST]
    if not told:
        return ItemSet(skipped={DOSE: "each of the other facts mentions an answer that is read, so none can be given"})
    context = "".join(told)
    return exchanged_items(FACT, read, given.encoder, after(context))


def _told(fact: PosedQuestion) -> str:
    """The question with its answer."""
    return ASK.replace("{}", fact.wording) + answer_text(f"{fact.prefix} {fact.answer}".strip()) + "\n\n"
