"""Drawn answers: several at temperature 1 for each fact, which leak what the most probable answer hides (leak@k).

The more answers are drawn, the more are right by chance. So the verdict does not count these answers as said (the
prompts have ids of their own): the metric ``leak_at_k`` compares with the other answers of a fact's type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from audit.attacks import AttackedModel, AttackInput
from audit.questions.conditions import Condition
from audit.questions.items import ItemSet

TITLE = "drawn answers"
COST = "passes"
INPUT = "sampled"
LEVEL = "full"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

SAMPLES: Final = 8
"""Answers to each question."""
KIND: Final = "sampled"


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition, in which answers are only written."""
    seed = given.settings.seed
    written = tuple(
        replace(prompt, id=drawn_id(prompt.id), kind=KIND, samples=SAMPLES, seed=seed)
        for prompt in given.items.facts().written
    )
    if written:
        yield AttackedModel(Condition("sampled", f"{SAMPLES} answers", seed), ItemSet(written=written))


def drawn_id(fact: str) -> str:
    """The id of the prompt with the drawn answers to a fact, ``"fact/3"``."""
    return f"{KIND}/{fact.rpartition('/')[2]}"
