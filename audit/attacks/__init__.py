"""The attacks: what is done to a model to bring hidden knowledge back. Each file of this folder is one.

An attack yields conditions: the topic's questions put in another way, or another model to put them to. Every metric
that reads answers can be read under every condition, and no metric knows which attack came before it.
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
"""Attacks that ``removed`` takes and that this version does not have: name of the file to come -> what it is called."""


@dataclass(frozen=True)
class AttackInput:
    """What an attack is given.

    Attributes:
        model: as it is; ``None`` where only the cost is asked for: then an attack yields the same item sets.
        items: what the model is asked as it is, the base's own answers included where they are known by now.
    """

    model: RunningModel | None
    encoder: Encoder
    topic: Topic
    items: ItemSet
    settings: Settings


@dataclass(frozen=True)
class AttackedModel:
    """One condition: what is asked, and of which model.

    Attributes:
        model: ``None`` for the model as it is; then the condition shares the forward pass of the unattacked model.
    """

    condition: Condition
    items: ItemSet
    model: RunningModel | None = None


class Attack(Protocol):
    """A file of this folder.

    Attributes:
        TITLE: for people.
        COST: what one condition takes: ``prompts`` share the forward pass, ``passes`` are further forward passes,
            ``training`` changes a copy of the model.
        INPUT: the word of a metric's ``NEEDS`` that stands for this attack's conditions.
        RECOVERS: whether ``removed`` takes this attack to have run and failed.
        METRICS: metrics that are measured under each of its conditions; those that read all conditions of the attack
            together name its ``INPUT`` in their ``NEEDS`` and are not among them.
    """

    TITLE: str
    COST: Cost
    INPUT: str
    RECOVERS: bool
    METRICS: tuple[str, ...]

    def conditions(self, given: AttackInput, /) -> Iterator[AttackedModel]:
        """Every condition of the attack; one without a usable question is yielded with the reasons in ``skipped``."""


@cache
def attacks() -> dict[str, Attack]:
    """Every attack by name, in alphabetical order.

    Raises:
        PluginError: a file names a cost that does not exist.
    """
    modules = discover(__name__, Attack)
    for name, attack in modules.items():
        if attack.COST not in COSTS:
            raise PluginError(f"{__name__}.{name} has COST {attack.COST!r}; choose from {', '.join(sorted(COSTS))}.")
    return modules


def not_run(ran: Collection[str] = ()) -> list[str]:
    """Titles of the attacks that ``removed`` takes and that did not run.

    Args:
        ran: names of those that did.
    """
    built = {name: attack.TITLE for name, attack in attacks().items() if attack.RECOVERS}
    return [title for name, title in ({**NOT_BUILT, **built}).items() if name not in ran]


def in_words(titles: Sequence[str]) -> str:
    """``"a, b and c"``; empty for no titles."""
    *first, last = titles or [""]
    return f"{', '.join(first)} and {last}" if first else last
