"""What a concept asks beside its questions: the same in other words, questions close to it, two-hop and open ones.

The first two are scored as the questions themselves are. The last two are answered in the model's own words: a two-hop
answer takes a fact about the concept and one more, an open one a sentence; no example before them holds an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from audit.questions.items import FurtherKind, Item, ItemSet, Kind, Prompt, encode, ids_of_answer
from concepts.concept import Concept, Question
from concepts.prompts import few_shot, in_sentences

PARAPHRASES: Final = 2
"""Other wordings of each question that are scored; more cost time and say little more."""
FORMS: Final[Mapping[FurtherKind, Callable[[str, Sequence[str]], str]]] = {"two_hop": few_shot, "open": in_sentences}
"""How a question is put, given the words that no example may mention."""


@dataclass(frozen=True)
class Further(Item):
    """An answer after another wording of its question, or after a neighbouring question.

    ``place`` is the question's among those about the concept, or among the neighbours.
    """

    place: int


def with_further(items: ItemSet, concept: Concept, tokenizer: Any, context: int, limit: int | None = None) -> ItemSet:
    """``items`` and what else the concept asks; what cannot be scored or asked is refused with the reason.

    Args:
        limit: at most this many questions of each kind.
    """
    avoid = [concept.title, *concept.seeds]
    scored: list[Item] = []
    written: list[Prompt] = []
    refused = dict(items.refused)
    for name, kind, place, wording, answer in _to_score(concept, limit):
        try:
            text = few_shot(wording, avoid)
            ids = encode(text, tokenizer, context)
            answer_ids = ids_of_answer(text, ids, answer, tokenizer, context)
            scored.append(Further(name, kind, wording, answer, ids, answer_ids, place))
        except ValueError as reason:  # Unusable, or no example can be used
            refused[f"{name} ({wording})"] = str(reason)
    for name, kind_written, question in _to_write(concept, limit):
        try:
            text = FORMS[kind_written](question.question, [*avoid, *question.answers])
            written.append(Prompt(name, kind_written, question.question, text, encode(text, tokenizer, context)))
        except ValueError as reason:
            refused[f"{name} ({question.question})"] = str(reason)
    return replace(items, items=(*items.items, *scored), further=tuple(written), refused=refused)


def _to_score(concept: Concept, limit: int | None) -> Iterator[tuple[str, Kind, int, str, str]]:
    """Id, kind, place, wording and answer, where the answer is given."""
    for place, question in enumerate(concept.questions[:limit]):
        if question.answer is not None:
            for number, wording in enumerate(question.paraphrases[:PARAPHRASES]):
                yield f"paraphrase/{place}/{number}", "paraphrase", place, wording, question.answer
    for place, question in enumerate(concept.neighbours[:limit]):
        if question.answer is not None:
            yield f"neighbour/{place}", "neighbour", place, question.question, question.answer


def _to_write(concept: Concept, limit: int | None) -> Iterator[tuple[str, FurtherKind, Question]]:
    kinds: Mapping[FurtherKind, Sequence[Question]] = {"two_hop": concept.two_hop, "open": concept.open}
    for kind, questions in kinds.items():
        for place, question in enumerate(questions[:limit]):
            yield f"{kind}/{place}", kind, question
