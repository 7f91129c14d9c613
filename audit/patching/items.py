"""The questions that are patched: facts that the base says, controls, and for each of them a question to exchange with.

The other question has the same type and another subject: it has everything of the question and nothing of the fact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

from audit.models.forward import Row
from audit.questions.items import FACT, FactGroup, Item, ItemSet

FACTS: Final = 24
CONTROLS: Final = 12
"""Maximum numbers of facts and of controls, chosen at random: the base's activations of all of them are kept."""
UNRELATED: Final = "unrelated"

T = TypeVar("T")


@dataclass(frozen=True)
class PatchItem:
    """One question with its answer.

    Attributes:
        id: as in the item set.
        control: whether it was not to be forgotten.
        prompt_ids, answer_ids: every token of the answer is scored.
        other_ids: the prompt of a question of the same type about another subject, with another answer.
        apart: index of the answer's token that tells it apart from other answers of its type.
        wrong_ids: tokens that would tell other answers apart at the same place.
    """

    id: str
    type: str
    subject: str
    answer: str
    control: bool
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    other_ids: tuple[int, ...]
    apart: int = 0
    wrong_ids: tuple[int, ...] = ()

    @property
    def row(self) -> Row:
        """The question followed by its answer."""
        return Row(self.prompt_ids + self.answer_ids, len(self.prompt_ids) - 1)

    @property
    def other_row(self) -> Row:
        """The other question followed by this question's answer."""
        return Row(self.other_ids + self.answer_ids, len(self.other_ids) - 1)


def patch_items(items: ItemSet, right: Mapping[str, bool], context: int, seed: int) -> tuple[PatchItem, ...]:
    """Facts first, then controls: the same questions about other subjects, or unrelated questions if there are none.

    Args:
        right: prompt id -> whether the base's answer is right; facts that it does not say are omitted.
        context: maximum number of tokens in a sequence.
    """
    typed = [item for group in items.groups for item in _of_group(group)]
    facts = [item for item in typed if not item.control and right.get(item.id)]
    controls = [item for item in typed if item.control] or list(_unrelated(items, right))
    random = Random(seed)
    return tuple(
        item
        for candidates, most in ((facts, FACTS), (controls, CONTROLS))
        for item in _at_most(most, [item for item in candidates if _fits(item, context)], random)
    )


def _fits(item: PatchItem, context: int) -> bool:
    return max(len(item.row.ids), len(item.other_row.ids)) <= context


def _at_most(most: int, values: Sequence[T], random: Random) -> list[T]:
    chosen = sorted(random.sample(range(len(values)), min(most, len(values))))
    return [values[index] for index in chosen]


def _of_group(group: FactGroup) -> Iterator[PatchItem]:
    size = len(group.ids)
    for row in range(size):
        after = [(row + step) % size for step in range(1, size)]
        others = (
            other
            for other in after
            if group.subjects[other] != group.subjects[row] and group.answer_ids[other] != group.answer_ids[row]
        )
        other = next(others, None)
        if other is None:
            continue
        path = group.paths[row]
        beginning, token = path[-1]
        wrong = dict.fromkeys(end for each in group.paths for place, end in each if place == beginning)
        yield PatchItem(
            id=group.ids[row],
            type=group.name,
            subject=group.subjects[row],
            answer=group.answers[row],
            control=group.kind != FACT,
            prompt_ids=group.prompt_ids[row],
            answer_ids=group.answer_ids[row],
            other_ids=group.prompt_ids[other],
            apart=len(path) - 1,
            wrong_ids=tuple(each for each in wrong if each != token),
        )


def _unrelated(items: ItemSet, right: Mapping[str, bool]) -> Iterator[PatchItem]:
    known = [item for item in items.of(UNRELATED) if right.get(item.id, True)]
    for place, item in enumerate(known):
        other = next((each for each in (*known[place + 1 :], *known[:place]) if _differ(item, each)), None)
        if other is not None:
            yield PatchItem(
                id=item.id,
                type=UNRELATED,
                subject=item.question,
                answer=item.answer,
                control=True,
                prompt_ids=item.prompt_ids,
                answer_ids=item.answer_ids,
                other_ids=other.prompt_ids,
            )


def _differ(one: Item, other: Item) -> bool:
    return one.answer_ids != other.answer_ids
