"""Facts whose subject is named indirectly: by another name, or by another fact about it (arXiv 2603.11266).

*What is the capital of the country where pizza comes from?* The wordings are those of the concept's file
(``alias_wordings``, ``two_hop_wordings``). Unlearning that was trained on one name may leave the way to the fact
through another. A model below a billion parameters takes few second steps, so a form is left out where the base answers
fewer than half of the facts that it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from audit.attacks import ABLE, AttackedModel, AttackInput
from audit.attacks.paraphrase import asked_in, wordings_in

TITLE = "subjects named indirectly"
COST = "prompts"
INPUT = "indirect"
LEVEL = "full"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

FORMS: Final = {"another name": "alias_wordings", "two hops": "two_hop_wordings"}
"""Dose -> field of the question."""


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition for each form, with the first such wording of each fact that has one."""
    concept = given.topic.concept
    wordings = {dose: places for dose, field in FORMS.items() if (places := wordings_in(concept, field, 0))}
    yield from asked_in(given, "indirect", wordings, ABLE)
