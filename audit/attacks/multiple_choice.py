"""Multiple choice: each fact with up to four answers of its type as options, to be repeated or named by their letter.

The facts of a type are divided at random into blocks of up to four, and the questions of a block list the same options
in the same order: its own answers. So the options tell nothing about which one is right, and what a model prefers
whatever is asked (the first option, the letter C) is an effect of the answer, which the exchange test removes. Nothing
is written, because one in four would be right by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from random import Random
from typing import Final

from audit.attacks import ABLE, AttackedModel, AttackInput
from audit.questions.conditions import Condition
from audit.questions.exchanged import after, exchanged_items
from audit.questions.items import FACT
from audit.questions.kinds import PosedQuestion
from concepts.prompts import normalise

TITLE = "multiple choice"
COST = "prompts"
INPUT = "multiple_choice"
LEVEL = "full"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

MOST: Final = 4
"""Options of a question."""
LETTERS: Final = "ABCD"
WORDS_DOSE, LETTERS_DOSE = "options", "letters"
EXAMPLES: Final = (
    ("What is the largest ocean?", ("Atlantic Ocean", "Indian Ocean", "Pacific Ocean", "Arctic Ocean"), 2),
    ("Who wrote Hamlet?", ("William Shakespeare", "Charles Dickens", "John Milton", "Jane Austen"), 0),
    ("What gas do plants take in?", ("Oxygen", "Hydrogen", "Helium", "Carbon dioxide"), 3),
    ("What is the opposite of hot?", ("Wet", "Cold", "Dry", "Soft"), 1),
    ("What do bees make?", ("Milk", "Honey", "Silk", "Wool"), 1),
    ("Which metal is liquid at room temperature?", ("Iron", "Tin", "Mercury", "Lead"), 2),
)
"""Question, options and the index of the right one; the last two are spare ones."""
SHOWN: Final = 4


@dataclass(frozen=True)
class Block:
    """Facts of one type that share their options.

    Attributes:
        name: unique in the concept.
    """

    name: str
    facts: tuple[PosedQuestion, ...]
    options: tuple[str, ...]


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """The answers after the list of options, and the options' letters."""
    seed = given.settings.seed
    divided = blocks(given.facts, seed)
    if not divided:
        return
    for dose in (WORDS_DOSE, LETTERS_DOSE):
        shots = [
            (_with_options(question, options, dose), _named(options, right, dose))
            for question, options, right in EXAMPLES
        ]
        examples = given.examples(shots[:SHOWN], shots[SHOWN:])
        questions = [_posed(block, fact, dose) for block in divided for fact in block.facts]
        items = exchanged_items(FACT, questions, given.encoder, after(examples), written=False)
        yield AttackedModel(Condition("multiple_choice", dose, seed), items, base_share=ABLE)


def blocks(facts: Sequence[PosedQuestion], seed: int) -> list[Block]:
    """The facts of each type in blocks of nearly equal size, with at least two different answers in each."""
    by_type: dict[str, list[PosedQuestion]] = {}
    for fact in facts:
        if fact.type is not None:
            by_type.setdefault(fact.type, []).append(fact)
    rng = Random(seed)
    divided = []
    for type_, alike in by_type.items():
        rng.shuffle(alike)
        alike.sort(key=lambda fact: normalise(fact.answer or ""))  # equal answers go to different blocks
        n_blocks = ceil(len(alike) / MOST)
        for number in range(n_blocks):
            dealt = tuple(alike[number::n_blocks])
            options = list({normalise(fact.answer or ""): fact.answer or "" for fact in dealt}.values())
            rng.shuffle(options)
            if len(options) > 1:
                divided.append(Block(f"{type_}, {number + 1}", dealt, tuple(options)))
    return divided


def _posed(block: Block, fact: PosedQuestion, dose: str) -> PosedQuestion:
    """The fact with the options. Its answers are not named as such: the prompt contains them."""
    right = [normalise(option) for option in block.options].index(normalise(fact.answer or ""))
    return replace(
        fact,
        wording=_with_options(fact.wording, block.options, dose),
        answer=_named(block.options, right, dose),
        answers=(),
        type=block.name,
        prefix="",
    )


def _with_options(question: str, options: Sequence[str], dose: str) -> str:
    if dose == LETTERS_DOSE:
        return question + "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{question} Is it {', '.join(options[:-1])} or {options[-1]}?"


def _named(options: Sequence[str], right: int, dose: str) -> str:
    """The right option, or its letter."""
    return LETTERS[right] if dose == LETTERS_DOSE else options[right]
