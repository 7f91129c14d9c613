"""The attacks: attempts to recover hidden knowledge from a model. Each file of this folder is one.

An attack yields conditions: other prompts for the topic's questions, or a modified model. Every metric that reads
answers can be measured under every condition, and no metric depends on a particular attack.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, Protocol

from audit.models.loading import RunningModel
from audit.plugins import PluginError, discover
from audit.questions.conditions import Condition
from audit.questions.items import Encoder, ItemSet
from audit.questions.topics import Topic
from audit.settings import Settings

Cost = Literal["prompts", "passes", "training"]
COSTS: Final[frozenset[Cost]] = frozenset({"prompts", "passes", "training"})

NOT_BUILT: Final = {"relearning": "relearning", "quantisation": "quantisation", "patching": "activation patching"}
"""Attacks that the verdict ``removed`` requires and this version does not have: future file name -> title."""


@dataclass(frozen=True)
class AttackInput:
    """The input of an attack.

    Attributes:
        model: the unmodified model; ``None`` to estimate the cost, for which an attack yields the same item sets.
        items: the item set of ``AS_IS``, with the base's own answers once they are known.
    """

    model: RunningModel | None
    encoder: Encoder
    topic: Topic
    items: ItemSet
    settings: Settings


@dataclass(frozen=True)
class AttackedModel:
    """One condition: its item set and its model.

    Attributes:
        model: ``None`` for the unmodified model, whose forward pass the condition then shares.
    """

    condition: Condition
    items: ItemSet
    model: RunningModel | None = None


class Attack(Protocol):
    """A file of this folder.

    Attributes:
        TITLE: display name.
        COST: cost of one condition: ``prompts`` share the forward pass, ``passes`` need further forward passes,
            ``training`` changes a copy of the model.
        INPUT: the input in a metric's ``NEEDS`` that this attack's conditions provide.
        RECOVERS: whether the verdict ``removed`` requires that this attack has run and failed.
        METRICS: metrics that are measured under each of its conditions. A metric that reads all conditions together
            has ``INPUT`` in its ``NEEDS`` instead.
    """

    TITLE: str
    COST: Cost
    INPUT: str
    RECOVERS: bool
    METRICS: tuple[str, ...]

    def conditions(self, given: AttackInput, /) -> Iterator[AttackedModel]:
        """All conditions of the attack; a condition without usable questions has the reasons in ``items.skipped``."""


@cache
def attacks() -> dict[str, Attack]:
    """All attacks by name, in alphabetical order.

    Raises:
        PluginError: ``COST`` of a file is unknown.
    """
    modules = discover(__name__, Attack)
    for name, attack in modules.items():
        if attack.COST not in COSTS:
            raise PluginError(f"{__name__}.{name} has COST {attack.COST!r}; choose from {', '.join(sorted(COSTS))}.")
    return modules


def not_run(ran: Collection[str] = ()) -> list[str]:
    """Titles of the attacks that the verdict ``removed`` requires and that did not run.

    Args:
        ran: names of the attacks that ran.
    """
    built = {name: attack.TITLE for name, attack in attacks().items() if attack.RECOVERS}
    return [title for name, title in ({**NOT_BUILT, **built}).items() if name not in ran]


def in_words(titles: Sequence[str]) -> str:
    """``"a, b and c"``; empty for no titles."""
    *first, last = titles or [""]
    return f"{', '.join(first)} and {last}" if first else last
