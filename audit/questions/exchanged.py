"""Questions whose answers are exchanged: after each question, the answer of every question of the same type is scored.

An answer is scored up to the first token that tells it apart from the other answers of its type. For most answers that
is their first token, which one forward pass over the question scores for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from audit.questions.items import Encoder, FactGroup, ItemSet, Prompt, Skipped, room
from audit.questions.kinds import PosedQuestion
from concepts.prompts import ASK, answer_text, mentions

Ask = Callable[[PosedQuestion], str]
"""The text before the answer of a question (``prefix`` not included). Raises ValueError if it cannot be asked."""
Ids = tuple[int, ...]


def after(examples: str) -> Ask:
    """The usual form of a question, after ``examples``."""
    return lambda question: examples + ASK.replace("{}", question.wording.strip())


def exchanged_items(
    kind: str,
    questions: Sequence[PosedQuestion],
    encoder: Encoder,
    ask: Ask,
    written: bool = True,
    max_new_tokens: int | None = None,
) -> ItemSet:
    """The questions to write answers to, and the groups of those with a type.

    Args:
        kind: first part of the prompt ids, ``"fact"`` for facts: ``"fact/3"`` is the question with place 3.
        ask: form of the question; called once for each.
        written: whether free answers are generated too.
        max_new_tokens: maximum length of a free answer, to which that of the answer's ``prefix`` is added; by default
            what the right answers need.
    """
    prompts: list[Prompt] = []
    rows: dict[str, list[tuple[PosedQuestion, Ids, Ids]]] = {}
    skipped: dict[str, str] = {}
    length = max_new_tokens or room({answer for question in questions for answer in question.answers}, encoder)
    for question in questions:
        name = f"{kind}/{question.place}"
        try:
            text = ask(question)
            ids = encoder.prompt(text)
            if mentions(text, question.answers):
                raise Skipped(f"the answer {question.answer!r} is part of the prompt")
            if written:
                beginning = _following(text, question.prefix)
                longer = len(encoder.continuation(text, ids, beginning)) if question.prefix else 0
                prompts.append(_prompt(name, kind, question, text, ids, length + longer))
            if question.type is not None:
                rows.setdefault(question.type, []).append((question, *_encoded(question, text, encoder)))
        except ValueError as reason:  # Skipped, or every few-shot example mentions the concept
            skipped[f"{name} ({question.wording})"] = str(reason)
    groups = tuple(
        _group(kind, type_, group) for type_, group in rows.items() if len({answer for _, _, answer in group}) > 1
    )
    return ItemSet(written=tuple(prompts), groups=groups, skipped=skipped)


def _prompt(name: str, kind: str, question: PosedQuestion, text: str, ids: Ids, max_new_tokens: int) -> Prompt:
    return Prompt(
        name, kind, question.wording, text, ids, question.answers, question.subject, max_new_tokens=max_new_tokens
    )


def _encoded(question: PosedQuestion, text: str, encoder: Encoder) -> tuple[Ids, Ids]:
    """The tokens of the question with the beginning of its answer, and of the rest of the answer."""
    assert question.answer is not None  # every question of a type has an answer
    begun = text + _following(text, question.prefix) if question.prefix else text
    ids = encoder.prompt(begun)
    return ids, encoder.continuation(begun, ids, _following(begun, question.answer))


def _following(text: str, words: str) -> str:
    """``words`` as they follow ``text``; some chat templates end in a new line, after which no space belongs."""
    return words.strip() if text[-1:].isspace() else answer_text(words)


def _differ(rows: Sequence[tuple[PosedQuestion, Ids, Ids]]) -> bool:
    """Whether there are different answers: equal ones cannot be told apart."""
    return len({answer for _, _, answer in rows}) > 1


def _group(kind: str, type_: str, rows: Sequence[tuple[PosedQuestion, Ids, Ids]]) -> FactGroup:
    answers = [answer for _, _, answer in rows]
    ends = [_telling_apart(answer, answers) for answer in answers]
    beginnings = {answer[:depth]: None for answer, end in zip(answers, ends, strict=True) for depth in range(end)}
    places: Mapping[Ids, int] = {beginning: index for index, beginning in enumerate(beginnings)}
    return FactGroup(
        name=type_,
        kind=kind,
        ids=tuple(f"{kind}/{question.place}" for question, _, _ in rows),
        subjects=tuple(question.subject for question, _, _ in rows),
        answers=tuple(question.answer or "" for question, _, _ in rows),
        prompt_ids=tuple(ids for _, ids, _ in rows),
        beginnings=tuple(beginnings),
        paths=tuple(
            tuple((places[answer[:depth]], answer[depth]) for depth in range(end))
            for answer, end in zip(answers, ends, strict=True)
        ),
        answer_ids=tuple(answers),
    )


def _telling_apart(answer: Ids, answers: Sequence[Ids]) -> int:
    """Number of tokens of ``answer`` up to the first that tells it apart from all different ones."""
    others = {other for other in answers if other != answer}
    for end in range(1, len(answer)):
        if not any(other[:end] == answer[:end] for other in others):
            return end
    return len(answer)
