"""The questions of a topic in token ids: answers to score, prompts to answer, groups of candidates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from jaxtyping import Int

from audit.models.generation import MAX_NEW_TOKENS
from audit.models.packing import Example, encode
from audit.models.tokenizer import Tokenizer
from concepts.concept import neutral_text
from concepts.prompts import answer_text, cut, mentions, normalise, states

NEUTRAL_TEXT: Final = "text"
"""Kind of the items of neutral text, which belong to no question."""
FACT: Final = "fact"
"""Kind of question of the facts."""


@dataclass(frozen=True)
class Item:
    """One text to score: ``prompt_ids`` is read, each of ``answer_ids`` is scored.

    Attributes:
        id: unique in its item set, e.g. ``"target/3"``; the base's own answer to the same question is
            ``"target_own/3"``.
        kind: file name of the kind of question, with the suffix ``_own`` for the base's own answers; or
            ``NEUTRAL_TEXT``.
        question, answer: the texts, for display; both empty for neutral text.
        place: index of the question among those of its kind.
    """

    id: str
    kind: str
    question: str
    answer: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    place: int = 0


@dataclass(frozen=True)
class Prompt:
    """A question whose key vectors are read or that is answered freely.

    Attributes:
        text, ids: the prompt, which ends where the answer begins.
        answers: right answers; empty if none is known.
        subject: what a fact is about.
        max_new_tokens: maximum length of the answer.
        is_complete: whether the generated text is a complete answer; ``None``: at the end of its first line.
        samples: number of answers that are drawn at temperature 1, in place of the most probable one if not 0. The
            generated text has one in each line.
        seed: of these draws.
    """

    id: str
    kind: str
    question: str
    text: str
    ids: tuple[int, ...]
    answers: tuple[str, ...] = ()
    subject: str = ""
    max_new_tokens: int = MAX_NEW_TOKENS
    is_complete: Callable[[str], bool] | None = None
    samples: int = 0
    seed: int = 0

    @property
    def how(self) -> object:
        """What the answer depends on."""
        return self.ids, self.max_new_tokens, self.is_complete, self.samples, self.seed


@dataclass(frozen=True)
class FactGroup:
    """Questions of one type; the answer to question ``i`` is answer ``i``, and two answers may be equal.

    Attributes:
        name: type of the answers.
        kind: file name of the kind of question: ``"fact"``, or ``"group"`` for controls.
        ids, subjects, answers: ``m`` each; the ids are those of the written answers to the same questions.
        prompt_ids: the ``m`` prompts, which end where the answers begin.
        beginnings: token sequences with which answers begin before they differ; the first is empty.
        paths: for each answer (index into ``beginnings``, next token), up to the token that tells the answer apart.
        answer_ids: all tokens of each answer.
    """

    name: str
    kind: str
    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    answers: tuple[str, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    beginnings: tuple[tuple[int, ...], ...]
    paths: tuple[tuple[tuple[int, int], ...], ...]
    answer_ids: tuple[tuple[int, ...], ...]

    @property
    def first_ids(self) -> Int[np.ndarray, " m"]:
        """First token of each answer; answers may share it."""
        return np.array([path[0][1] for path in self.paths])

    def of(self, subjects: Collection[str] | None = None, ids: Collection[str] | None = None) -> FactGroup | None:
        """The group of these subjects, or of these facts, alone; ``None`` if fewer than two questions are left."""
        chosen = [
            row
            for row, (subject, name) in enumerate(zip(self.subjects, self.ids, strict=True))
            if (subjects is None or subject in subjects) and (ids is None or name in ids)
        ]
        if len(chosen) < 2:
            return None
        return replace(
            self,
            ids=tuple(self.ids[row] for row in chosen),
            subjects=tuple(self.subjects[row] for row in chosen),
            answers=tuple(self.answers[row] for row in chosen),
            prompt_ids=tuple(self.prompt_ids[row] for row in chosen),
            paths=tuple(self.paths[row] for row in chosen),
            answer_ids=tuple(self.answer_ids[row] for row in chosen),
        )


@dataclass(frozen=True)
class ItemSet:
    """The inputs of all models for one topic under one condition.

    Attributes:
        items: answers to score.
        prompts: questions whose key vectors are read at the last token.
        written: questions that are answered freely.
        skipped: question that could not be used -> the reason.
        sentences_left_out: number of sentences omitted from texts in the prompts because they contain an answer, over
            all questions about the topic.
    """

    items: tuple[Item, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    written: tuple[Prompt, ...] = ()
    groups: tuple[FactGroup, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    sentences_left_out: int = 0

    def of(self, kind: str) -> list[Item]:
        """The items of one kind, in order."""
        return [item for item in self.items if item.kind == kind]

    def facts(self, subjects: Collection[str] | None = None, ids: Collection[str] | None = None) -> ItemSet:
        """The facts alone: their groups and their written answers.

        Args:
            subjects: keep the facts about these; ``None`` for all.
            ids: keep these facts; ``None`` for all.
        """
        groups = [group for group in self.groups if group.kind == FACT]
        if subjects is not None or ids is not None:
            groups = [kept for group in groups if (kept := group.of(subjects, ids)) is not None]
        written = tuple(
            prompt
            for prompt in self.written
            if prompt.kind == FACT
            and (subjects is None or prompt.subject in subjects)
            and (ids is None or prompt.id in ids)
        )
        return ItemSet(written=written, groups=tuple(groups))


BESIDES: Final = 8
"""Tokens that a short answer may have beside the right one, as in *The answer is X*."""


class Skipped(ValueError):
    """A question that cannot be used, with the reason."""


@dataclass(frozen=True)
class Encoder:
    """Converts text to token ids within a model's context.

    Attributes:
        context: maximum number of tokens in a sequence.
        special_tokens: whether the tokenizer adds its own; a chat template has written them into the prompt.
    """

    tokenizer: Tokenizer
    context: int
    special_tokens: bool = True

    def prompt(self, text: str) -> tuple[int, ...]:
        """The tokens of a prompt.

        Raises:
            Skipped: the prompt exceeds the context.
        """
        ids = tuple(self.tokenizer(text, add_special_tokens=self.special_tokens)["input_ids"])
        self._check_length(ids)
        return ids

    def answer(self, text: str, prompt_ids: tuple[int, ...], answer: str) -> tuple[int, ...]:
        """The tokens of ``answer`` after the prompt ``text``.

        Raises:
            Skipped: the answer has no letters or digits, occurs in the prompt, exceeds the context, or merges with the
                last token of the prompt.
        """
        if not normalise(answer):
            raise Skipped("the answer is empty")
        if mentions(text, [answer]):
            raise Skipped(f"the answer {answer!r} is part of the prompt")
        return self.continuation(text, prompt_ids, answer_text(answer))

    def continuation(self, text: str, prompt_ids: tuple[int, ...], continuation: str) -> tuple[int, ...]:
        """The tokens that ``continuation`` adds to the prompt when both are encoded together (``packing.encode``).

        Raises:
            Skipped: both exceed the context, or the tokenizer merges the end of the prompt with the answer.
        """
        tokens = encode(self.tokenizer, Example(text, continuation), self.special_tokens)
        self._check_length(tokens.prompt + tokens.answer)
        if tokens.prompt != prompt_ids or not tokens.answer:
            raise Skipped("the tokenizer merges the end of the prompt with the answer")
        return tokens.answer

    def _check_length(self, ids: Sequence[int]) -> None:
        if len(ids) >= self.context:
            raise Skipped(f"{len(ids)} tokens do not fit into the model's context of {self.context}")


def with_own_answers(items: ItemSet, generated: Mapping[str, str], encoder: Encoder) -> ItemSet:
    """``items`` with the first line of each of the base's greedy answers added as an item to score.

    Args:
        generated: prompt id -> the base's greedy continuation; must include ``items.prompts``.
    """
    own, skipped = [], dict(items.skipped)
    for prompt in items.prompts:
        kind, place = f"{prompt.kind}_own", prompt.id.rpartition("/")[2]
        answer = cut(generated[prompt.id])
        try:
            answer_ids = encoder.answer(prompt.text, prompt.ids, answer)
            own.append(Item(f"{kind}/{place}", kind, prompt.question, answer, prompt.ids, answer_ids, int(place)))
        except Skipped as reason:
            skipped[f"the base's own answer to {prompt.id} ({prompt.question})"] = str(reason)
    return replace(items, items=(*items.items, *own), skipped=skipped)


def neutral_items(encoder: Encoder, text: str = "") -> Iterator[Item]:
    """Neutral text, one item for each paragraph: every token but the first is scored.

    Args:
        text: instead of the shipped text.
    """
    paragraphs = [paragraph.strip() for paragraph in (text or neutral_text()).split("\n\n")]
    for index, paragraph in enumerate(paragraph for paragraph in paragraphs if paragraph):
        ids = tuple(encoder.tokenizer(paragraph)["input_ids"])[: encoder.context]
        yield Item(f"{NEUTRAL_TEXT}/{index}", NEUTRAL_TEXT, "", "", ids[:1], ids[1:], index)


def room(answers: Collection[str], encoder: Encoder) -> int:
    """Number of tokens in which any of the short ``answers`` can be given."""
    longest = max((len(encoder.tokenizer(answer_text(answer))["input_ids"]) for answer in answers), default=0)
    return min(longest + BESIDES, MAX_NEW_TOKENS)


def with_short_answers(items: ItemSet, encoder: Encoder) -> ItemSet:
    """``items`` with free answers to the facts that are no longer than their right answers need."""
    length = room({answer for prompt in items.written if prompt.kind == FACT for answer in prompt.answers}, encoder)
    written = [
        replace(prompt, max_new_tokens=min(prompt.max_new_tokens, length)) if prompt.kind == FACT else prompt
        for prompt in items.written
    ]
    return replace(items, written=tuple(written))


def check_answers(prompts: Sequence[Prompt], generated: Mapping[str, str]) -> dict[str, bool]:
    """Prompt id -> whether the first generated line, or one of several drawn answers, gives a right answer.

    Answers are compared as whole words; negated ones do not count.
    """
    return {
        prompt.id: any(states(answer, prompt.answers) for answer in written_answers(prompt, generated[prompt.id]))
        for prompt in prompts
        if prompt.answers and prompt.id in generated
    }


def written_answers(prompt: Prompt, generated: str) -> list[str]:
    """The answers in the text that was generated after ``prompt``: one, or as many as were drawn."""
    return generated.split("\n") if prompt.samples else [cut(generated)]
