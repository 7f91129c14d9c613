"""A concept's questions for causal tests: those the base answers, split once for good.

Questions on the choosing side decide which vectors are taken and how strongly; those on the reporting side are read at
the end alone. A question's wordings stay on its side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from audit.errors import ConceptError
from audit.models.loading import RunningModel
from audit.models.packing import Example, answer_logprobs, pack, tokenize
from audit.progress import SILENT, Progress
from concepts.concept import Concept, Question
from concepts.prompts import answer_text, few_shot, mentions

FEWEST = 5
"""Known questions a concept needs: with fewer there is nothing to choose by, or nothing to report on."""
WORDINGS = 2
"""Wordings asked of each question; more cost time and say little more."""
MOST_UNRELATED = 60
PACKED = 24
"""Questions in one row."""


@dataclass(frozen=True)
class Asked:
    """Examples and the question that each one words.

    Attributes:
        of: index of the question, ascending ``[n_examples]``.
    """

    examples: tuple[Example, ...]
    of: np.ndarray

    @property
    def n(self) -> int:
        """Number of questions."""
        return len(np.unique(self.of))

    def by_question(self, values: Float[np.ndarray, " n_examples"]) -> Float[np.ndarray, " n_questions"]:
        """Mean over each question's wordings."""
        _, place = np.unique(self.of, return_inverse=True)
        mean: np.ndarray = np.bincount(place, values) / np.bincount(place)
        return mean


@dataclass(frozen=True)
class Questions:
    """What a base knows of a concept and of other things, split for choosing and reporting.

    Attributes:
        choosing: the questions of the choosing side, which may also be trained on.
        unknown: questions about the concept that the base does not answer; they are not used.
    """

    choose: Asked
    report: Asked
    unrelated_choose: Asked
    unrelated_report: Asked
    choosing: tuple[Question, ...]
    unknown: tuple[str, ...]


def known_questions(model: RunningModel, concept: Concept, seed: int = 0, progress: Progress = SILENT) -> Questions:
    """The questions to which ``model``'s greedy answer begins with a right one, split by ``seed``.

    The right answer that it gives is the one that is scored.

    Raises:
        ConceptError: the model answers fewer than ``FEWEST`` of them, or hardly any unrelated one.
    """
    avoid = [concept.title, *concept.seeds]
    progress.step(f"Seeing what the base knows of {concept.title}")
    target = known(model, concept.questions, avoid)
    unrelated = known(model, concept.unrelated[: 2 * MOST_UNRELATED], avoid)[:MOST_UNRELATED]
    if len(target) < FEWEST:
        raise ConceptError(
            f"the base answers {len(target)} of the {len(concept.questions)} questions about {concept.title}; "
            f"{FEWEST} are needed to choose vectors by some and report on others.",
            hint="Give questions that it answers in a few words, with the answers it gives.",
        )
    if len(unrelated) < FEWEST:
        raise ConceptError(f"the base answers {len(unrelated)} unrelated questions; {FEWEST} are needed as control.")
    rng = np.random.default_rng(seed)
    halves, others = _split(target, rng, 1 / 2), _split(unrelated, rng, 2 / 3)
    answered = {question.question for question in target}
    return Questions(
        choose=asked(halves[0], avoid),
        report=asked(halves[1], avoid),
        unrelated_choose=asked(others[0], avoid, wordings=1),
        unrelated_report=asked(others[1], avoid, wordings=1),
        choosing=tuple(halves[0]),
        unknown=tuple(asked.question for asked in concept.questions if asked.question not in answered),
    )


def known(model: RunningModel, questions: Sequence[Question], avoid: Sequence[str]) -> list[Question]:
    """The questions that ``model`` answers rightly, each with the right answer that it gives first in line.

    One teacher-forced pass: an answer whose every token is the most probable one is how the greedy answer begins.
    """
    variants = [
        (index, answer, Example(prompt, answer_text(answer)))
        for index, question in enumerate(questions)
        for prompt in [few_shot(question.question, avoid)]
        for answer in question.answers
        if not mentions(prompt, [answer])
    ]
    given: dict[int, str] = {}
    for start in range(0, len(variants), PACKED):
        some = variants[start : start + PACKED]
        row = pack([*enumerate(tokenize(model.tokenizer, [example for _, _, example in some]))])
        with torch.inference_mode():
            hits = answer_logprobs(model, row).argmax(dim=-1) == row.targets
        wrong = torch.bincount(row.owner[~hits], minlength=len(some))
        for (index, answer, _), misses in zip(some, wrong.tolist(), strict=True):
            if not misses:
                given.setdefault(index, answer)
    return [questions[index].model_copy(update={"answer": answer}) for index, answer in sorted(given.items())]


def asked(questions: Sequence[Question], avoid: Sequence[str], wordings: int = WORDINGS) -> Asked:
    """``questions`` in the audit's form, each in up to ``wordings`` wordings, with its first answer."""
    examples, of = [], []
    for index, question in enumerate(questions):
        assert question.answer is not None  # known questions have one
        for wording in question.wordings[:wordings]:
            prompt = few_shot(wording, avoid)
            if not mentions(prompt, [question.answer]):
                examples.append(Example(prompt, answer_text(question.answer)))
                of.append(index)
    return Asked(tuple(examples), np.array(of))


def asked_under(answers: Asked, prompts: Asked, wrong: int) -> Asked:
    """Each answer after ``wrong`` prompts that do not ask for it."""
    examples, of = [], []
    known = {example.answer: index for index, example in zip(answers.of.tolist(), answers.examples, strict=True)}
    for answer, index in known.items():
        others = [example.prompt for example in prompts.examples if not mentions(example.prompt, [answer])]
        for prompt in others[:wrong]:
            examples.append(Example(prompt, answer))
            of.append(index)
    return Asked(tuple(examples), np.array(of))


def _split(
    questions: Sequence[Question], rng: np.random.Generator, share: float
) -> tuple[list[Question], list[Question]]:
    """``share`` of the questions, and the rest, each in their order."""
    order = rng.permutation(len(questions)).tolist()
    cut = int(share * len(order))
    return [questions[at] for at in sorted(order[:cut])], [questions[at] for at in sorted(order[cut:])]
