"""The kinds of question about a concept: each file of this folder is one, and adding a file adds a kind.

A kind defines which questions it takes from a concept, their prompt, what is read from the model, and whether
unlearning methods may train on their wordings. Items, readings, the plan, the training examples and the details
``by_kind`` of metrics iterate over this folder; no other module lists the kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, Protocol

from audit.plugins import PluginError, discover
from concepts.concept import Concept

Reading = Literal["scored", "written", "keys", "exchanged"]
READINGS: Final[frozenset[Reading]] = frozenset({"scored", "written", "keys", "exchanged"})


@dataclass(frozen=True)
class PosedQuestion:
    """One question of a kind.

    Attributes:
        place: index of the question among the concept's questions of this kind.
        wording: the question.
        answer: the answer to score; ``None`` if the question has none.
        answers: all right answers; a generated answer is checked against them.
        number: index of the wording, if one question has several.
        avoid: further words that no few-shot example may mention.
        type, subject, prefix: for ``exchanged``: see ``concepts.concept.Question``; a question without a type is
            written only.
    """

    place: int
    wording: str
    answer: str | None = None
    answers: tuple[str, ...] = ()
    number: int | None = None
    avoid: tuple[str, ...] = ()
    type: str | None = None
    subject: str = ""
    prefix: str = ""


class Kind(Protocol):
    """A file of this folder.

    Attributes:
        TITLE: display name, in the plural.
        ORDER: position among the kinds in passes and tables.
        READS: what is read for each question: ``scored``, the answer's log-probability; ``written``, the greedy answer;
            ``keys``, the key vector at the last token; ``exchanged``, the answers of one type after each question of
            that type.
        INPUT: the input in a metric's ``NEEDS`` that these questions provide.
        ABSENT: the reason why that input is missing, for a concept without such questions; ``{title}`` is the
            concept's title.
        TRAINABLE: whether training examples may use these wordings.
        MAX_NEW_TOKENS: maximum length of a generated answer.
    """

    TITLE: str
    ORDER: int
    READS: frozenset[Reading]
    INPUT: str
    ABSENT: str
    TRAINABLE: bool
    MAX_NEW_TOKENS: int

    def exists(self, concept: Concept, /) -> bool:
        """Whether the concept has such questions, with or without answers."""

    def questions(self, concept: Concept, limit: int | None, /) -> Iterator[PosedQuestion]:
        """The questions, at most ``limit``."""

    def prompt(self, wording: str, avoid: Sequence[str], examples: int, /) -> str:
        """The text before the answer, after at most so many examples.

        Raises:
            ValueError: every few-shot example mentions a word of ``avoid``.
        """


@cache
def kinds() -> dict[str, Kind]:
    """All kinds by name, sorted by ``ORDER``.

    Raises:
        PluginError: ``READS`` of a file contains an unknown value.
    """
    modules = discover(__name__, Kind)
    for name, kind in modules.items():
        unknown = kind.READS - READINGS
        if unknown:
            raise PluginError(f"{__name__}.{name} reads {min(unknown)!r}; choose from {', '.join(sorted(READINGS))}.")
    return dict(sorted(modules.items(), key=lambda entry: (entry[1].ORDER, entry[0])))


def missing_inputs(concept: Concept) -> dict[str, str]:
    """Inputs of ``NEEDS`` for which the concept has no questions -> the reason."""
    existing = {kind.INPUT for kind in kinds().values() if kind.exists(concept)}
    return {
        kind.INPUT: kind.ABSENT.format(title=concept.title)
        for kind in reversed(kinds().values())
        if kind.INPUT not in existing
    }


def audited_wordings(concept: Concept) -> Iterator[str]:
    """Every wording that the audit uses and that training examples must not contain."""
    for kind in kinds().values():
        if not kind.TRAINABLE:
            yield from (question.wording for question in kind.questions(concept, None))
