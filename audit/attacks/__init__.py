"""The attacks: attempts to recover hidden knowledge from a model. Each file of this folder is one.

An attack yields conditions: other prompts for the topic's questions, or a modified model. Every metric that reads
answers can be measured under every condition, and no metric depends on a particular attack.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal, Protocol

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.plugins import PluginError, discover
from audit.questions.base_parts import BaseParts
from audit.questions.conditions import Condition
from audit.questions.items import Encoder, ItemSet
from audit.questions.kinds import PosedQuestion, fact
from audit.questions.readings import Readings
from audit.questions.topics import Topic
from audit.settings import Settings
from concepts.prompts import ASK, SPARE_SHOTS, prefix

Cost = Literal["prompts", "passes", "training"]
COSTS: Final[frozenset[Cost]] = frozenset({"prompts", "passes", "training"})

Level = Literal["quick", "full"]
LEVELS: Final[frozenset[Level]] = frozenset({"quick", "full"})
NONE: Final = "none"

ABLE: Final = 0.5
"""``base_share`` of forms that not every model can answer: a base that fails in most cases tests nothing."""


@dataclass(frozen=True)
class AttackInput:
    """The input of an attack.

    Attributes:
        model: the unmodified model; ``None`` to estimate the cost, for which an attack yields the same item sets.
        items: the item set of ``AS_IS``, with the base's own answers once they are known.
        learning_rate: of attacks that train, chosen on the base's refusal twin; ``None`` if there is no twin.
        parameters: number of parameters of the model.
        done: readings that exist already, by condition; an attack may leave out the work for them.
        follows: of a reference, the conditions that the unlearned model was read under; ``None`` for other models.
        level: ``"full"`` if the longer version of the attack was asked for.
        base: what is kept of the base, of which the model is a version; ``None`` if the base was not asked about facts.
        update: L2 norm of the update from base to unlearned, divided by the L2 norm of the base; ``None`` if unknown.
    """

    model: RunningModel | None
    encoder: Encoder
    topic: Topic
    items: ItemSet
    settings: Settings
    learning_rate: float | None = None
    parameters: int = 0
    level: Level = "quick"
    done: Mapping[Condition, Readings] = field(default_factory=dict)
    follows: Collection[Condition] | None = None
    base: BaseParts | None = None
    update: float | None = None

    @property
    def facts(self) -> list[PosedQuestion]:
        """The questions of the facts; empty if the topic has none."""
        concept = self.topic.concept
        return [] if concept is None else list(fact.questions(concept, self.settings.limit))

    @property
    def avoid(self) -> list[str]:
        """Words of the concept, which no example question may mention."""
        concept = self.topic.concept
        return [] if concept is None else [concept.title, *concept.seeds]

    def examples(
        self, shots: Sequence[tuple[str, str]], spares: Sequence[tuple[str, str]] = SPARE_SHOTS, ask: str = ASK
    ) -> str:
        """Examples of a form, none of which mentions a word of the concept; see ``concepts.prompts.prefix``.

        Raises:
            AuditError: too few of them can be used.
        """
        try:
            return prefix(self.avoid, shots, spares, ask)
        except ValueError as error:
            raise AuditError(f"{error}.") from error


@dataclass(frozen=True)
class AttackedModel:
    """One condition: its item set and its model.

    Attributes:
        model: ``None`` for the unmodified model, whose forward pass the condition then shares. An attack that changes
            weights does so in place and undoes it, so the model is as described only until the next one is asked for.
        trained_tokens: number of tokens that were trained on to get here from the previous condition.
        trained_loss: loss of the answers in the first batch and in the last one, in nats per token, each before its
            step; ``None`` if nothing was trained. Where it did not fall, the training taught nothing.
        base_share: share of the facts that the base must say in this form, of those that it says as it is (or must rank
            first, where nothing is written). A form in which it knows fewer is not read in any model.
        optional: whether the attack may end before it, as what it reads says.
    """

    condition: Condition
    items: ItemSet
    model: RunningModel | None = None
    trained_tokens: float = 0.0
    trained_loss: tuple[float, float] | None = None
    base_share: float = 0.0
    optional: bool = False


class Attack(Protocol):
    """A file of this folder.

    Attributes:
        TITLE: display name.
        COST: cost of one condition: ``prompts`` share the forward pass, ``passes`` need further forward passes,
            ``training`` changes a copy of the model.
        INPUT: the input in a metric's ``NEEDS`` that this attack's conditions provide.
        LEVEL: ``quick`` if the attack is part of ``--attacks quick``, ``full`` if only of ``--attacks full``.
        RECOVERS: whether the verdict ``removed`` requires that this attack has run and failed.
        NEEDS_REFERENCE: whether the attack itself brings in something of the base, so that also a model that never knew
            the facts prefers true answers. Its conditions have no exchange null: they are only compared with those of a
            reference that was given the same.
        NULL_IF_INDEPENDENT: may be left out; whether they have that null if the concept says that the facts of one
            subject do not tell each other.
        METRICS: metrics that are measured under each of its conditions. A metric that reads all conditions together
            has ``INPUT`` in its ``NEEDS`` instead.
    """

    TITLE: str
    COST: Cost
    INPUT: str
    LEVEL: Level
    RECOVERS: bool
    NEEDS_REFERENCE: bool
    METRICS: tuple[str, ...]

    def conditions(self, given: AttackInput, /) -> Iterator[AttackedModel]:
        """All conditions of the attack; a condition without usable questions has the reasons in ``items.skipped``.

        No condition may show the model the answers of the facts that it is read on.

        Raises:
            AuditError: the attack cannot be run on this model; the message is the reason.
        """


@cache
def attacks() -> dict[str, Attack]:
    """All attacks by name, in alphabetical order.

    Raises:
        PluginError: ``COST`` or ``LEVEL`` of a file is unknown.
    """
    modules = discover(__name__, Attack)
    for name, attack in modules.items():
        for constant, value, known in (("COST", attack.COST, COSTS), ("LEVEL", attack.LEVEL, LEVELS)):
            if value not in known:
                raise PluginError(
                    f"{__name__}.{name} has {constant} {value!r}; choose from {', '.join(sorted(known))}."
                )
    return modules


def chosen_attacks(request: str) -> dict[str, Attack]:
    """The attacks that ``--attacks`` names: ``none``, ``quick``, ``full``, or names separated by commas.

    Raises:
        AuditError: an unknown name.
    """
    if request == NONE:
        return {}
    if request in LEVELS:
        return {name: attack for name, attack in attacks().items() if request == "full" or attack.LEVEL == "quick"}
    names = [name.strip() for name in request.split(",")]
    unknown = [name for name in names if name not in attacks()]
    if unknown:
        raise AuditError(
            f"no attack {unknown[0]!r}.", hint=f"Attacks are {', '.join(attacks())}; or none, quick, full."
        )
    return {name: attack for name, attack in attacks().items() if name in names}


def not_run(ran: Collection[str] = ()) -> list[str]:
    """Titles of the attacks that the verdict ``removed`` requires and that did not run.

    Args:
        ran: names of the attacks that ran.
    """
    return [attack.TITLE for name, attack in attacks().items() if attack.RECOVERS and name not in ran]


def without_null(independent: bool = False) -> frozenset[str]:
    """Attacks of which only a reference tells what they reveal of models that never knew.

    Args:
        independent: whether the facts of one subject do not tell each other.
    """
    return frozenset(
        name
        for name, attack in attacks().items()
        if attack.NEEDS_REFERENCE and not (independent and getattr(attack, "NULL_IF_INDEPENDENT", False))
    )


def in_words(titles: Sequence[str]) -> str:
    """``"a, b and c"``; empty for no titles."""
    *first, last = titles or [""]
    return f"{', '.join(first)} and {last}" if first else last
