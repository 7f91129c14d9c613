"""A concept's questions for causal tests: those that the base answers, split once by seed.

The choosing split decides which neurons are taken and how strongly they are edited; the held-out split is read only for
what is reported. All wordings of a question are in the same split. Each split has half of the concept's questions; the
held-out split has more where half is too few for a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from audit.errors import ConceptError
from audit.interventions import Change, Rows, dose
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.models.scoring import SHORT_PROMPTS, score
from audit.progress import SILENT, Progress
from audit.vectors.effects import FEWEST_QUESTIONS, Effect, Trial
from audit.vectors.records import QuestionCounts
from concepts.concept import Concept, Question
from concepts.neuron import Neuron
from concepts.prompts import answer_text, few_shot, mentions

MIN_QUESTIONS = 5
"""Answered questions a concept needs; with fewer, one of the two splits would be empty."""
MIN_CHOOSING = 4
"""Questions of the choosing split, where the held-out split would have fewer than ``FEWEST_QUESTIONS`` of a half."""
WORDINGS = 2
"""Wordings of each question that are used; more cost time and change little."""
MAX_UNRELATED = 60
MISMATCHED = 4
"""Unrelated prompts after which each of the concept's answers is scored, for the floor."""


@dataclass(frozen=True)
class QuestionExamples:
    """Prompts with answers, several for each question: one for each wording.

    Attributes:
        question: index of each example's question, ascending.
    """

    examples: tuple[Example, ...]
    question: Int[np.ndarray, " n_examples"]

    @property
    def n(self) -> int:
        """Number of questions."""
        return len(np.unique(self.question))

    def by_question(self, values: Float[np.ndarray, " n_examples"]) -> Float[np.ndarray, " n_questions"]:
        """Mean over each question's wordings."""
        _, group = np.unique(self.question, return_inverse=True)
        mean: np.ndarray = np.bincount(group, values) / np.bincount(group)
        return mean


@dataclass(frozen=True)
class AnsweredQuestions:
    """The questions that a base model answers, about a concept and unrelated ones, in two splits.

    Attributes:
        choosing_questions: the concept's questions of the choosing split; training may use them.
        unanswered: questions about the concept that the base does not answer; they are not used.
    """

    choosing: QuestionExamples
    held_out: QuestionExamples
    unrelated_choosing: QuestionExamples
    unrelated_held_out: QuestionExamples
    choosing_questions: tuple[Question, ...]
    unanswered: tuple[str, ...]

    def counts(self) -> QuestionCounts:
        sizes = (self.choosing.n, self.held_out.n, self.unrelated_choosing.n, self.unrelated_held_out.n)
        return QuestionCounts(*sizes, self.unanswered)


class QuestionSplits:
    """One model with both splits, to try edits on.

    Attributes:
        before: mean log-probability of the concept's held-out answers, in nats per token.
        floor: the same after unrelated prompts, which do not ask for the answer.
    """

    def __init__(self, model: RunningModel, questions: AnsweredQuestions, seed: int, progress: Progress) -> None:
        self.questions, self.seed = questions, seed
        self.choosing = Split(model, questions.choosing, questions.unrelated_choosing, seed, progress)
        self.held_out = Split(model, questions.held_out, questions.unrelated_held_out, seed, progress)
        mismatched = mismatched_examples(questions.held_out, questions.unrelated_held_out, MISMATCHED)
        log_probability = Trial(model, mismatched.examples, model.architecture.n_layers).before
        self.before = float(questions.held_out.by_question(self.held_out.before).mean())
        self.floor = float(mismatched.by_question(log_probability).mean())


class Split:
    """The concept's questions and unrelated ones of one split, scored in one model before and after an edit.

    Attributes:
        before: log-probability of each of the concept's examples, in nats per answer token.
    """

    def __init__(
        self,
        model: RunningModel,
        target: QuestionExamples,
        unrelated: QuestionExamples,
        seed: int,
        progress: Progress,
    ) -> None:
        self.target, self.unrelated, self.seed = target, unrelated, seed
        self.trial = Trial(model, [*target.examples, *unrelated.examples], progress=progress)
        self.before = self.trial.before[: len(target.examples)]

    def effect(self, change: Change) -> Effect:
        return self.by_question(self.trial.effect(change))

    def by_question(self, falls: Float[np.ndarray, " n_examples"]) -> Effect:
        """The effect on each question, from that on each example: target first, then unrelated."""
        n_target = len(self.target.examples)
        target, unrelated = self.target.by_question(falls[:n_target]), self.unrelated.by_question(falls[n_target:])
        return Effect(target, unrelated, self.seed)

    def zeroing(self, neurons: Iterable[Neuron]) -> Effect:
        """The effect of setting the value vectors of ``neurons`` to zero."""
        return self.effect(zeroed(neurons, self.trial.model.architecture.d_model))

    def mean_effect(self, draws: Sequence[Change], strength: float) -> Effect:
        """The effect at ``strength``, each question's a mean over the ``draws`` of one edit."""
        falls = [self.trial.effect(dose(self.trial.model, draw, strength)) for draw in draws]
        return self.by_question(np.mean(falls, axis=0))


def zeroed(neurons: Iterable[Neuron], d_model: int) -> Change:
    """The change that sets value vectors to zero."""
    layers: dict[int, list[int]] = {}
    for place in sorted(set(neurons)):
        layers.setdefault(place.layer, []).append(place.neuron)
    return {layer: Rows(tuple(rows), torch.zeros(len(rows), d_model)) for layer, rows in layers.items()}


def split_questions(
    model: RunningModel, concept: Concept, seed: int = 0, progress: Progress = SILENT
) -> AnsweredQuestions:
    """The questions that ``model`` answers (``answered``), split by ``seed``.

    Each is scored by the right answer that the model gives.

    Raises:
        ConceptError: the model answers fewer than ``MIN_QUESTIONS`` about the concept, or of the unrelated ones.
    """
    avoid = [concept.title, *concept.seeds]
    progress.step(f"Reading the base's answers about {concept.title}")
    shots = concept.examples
    target = answered(model, concept.questions, avoid, shots)
    unrelated = answered(model, concept.unrelated[: 2 * MAX_UNRELATED], avoid, shots)[:MAX_UNRELATED]
    if len(target) < MIN_QUESTIONS:
        raise ConceptError(
            f"the base answers {len(target)} of the {len(concept.questions)} questions about {concept.title}; "
            f"{MIN_QUESTIONS} are needed to choose vectors by some and report on others.",
            hint="Give questions that it answers in a few words, with the answers it gives.",
        )
    if len(unrelated) < MIN_QUESTIONS:
        raise ConceptError(
            f"the base answers {len(unrelated)} unrelated questions; {MIN_QUESTIONS} are needed as control."
        )
    rng = np.random.default_rng(seed)
    choosing, held_out = _split(target, rng, n_choosing(len(target)))
    unrelated_choosing, unrelated_held_out = _split(unrelated, rng, 2 * len(unrelated) // 3)
    known = {question.question for question in target}
    return AnsweredQuestions(
        choosing=as_examples(choosing, avoid, shots),
        held_out=as_examples(held_out, avoid, shots),
        unrelated_choosing=as_examples(unrelated_choosing, avoid, shots, wordings=1),
        unrelated_held_out=as_examples(unrelated_held_out, avoid, shots, wordings=1),
        choosing_questions=tuple(choosing),
        unanswered=tuple(each.question for each in concept.questions if each.question not in known),
    )


def answered(
    model: RunningModel, questions: Sequence[Question], avoid: Sequence[str], shots: int = 3
) -> list[Question]:
    """The questions whose greedy answer begins with a right one; that one becomes the question's ``answer``.

    One teacher-forced pass: the greedy answer begins with an answer whose every token is the most probable one.

    Args:
        avoid: words that no example in the prompt may mention.
        shots: number of examples in the prompt.
    """
    variants = [
        (index, answer, Example(prompt, answer_text(answer)))
        for index, question in enumerate(questions)
        for prompt in [few_shot(question.question, avoid, shots)]
        for answer in question.answers
        if not mentions(prompt, [answer])
    ]
    exact = score(model, [example for _, _, example in variants], SHORT_PROMPTS).exact
    given: dict[int, str] = {}
    for (index, answer, _), is_given in zip(variants, exact, strict=True):
        if is_given:
            given.setdefault(index, answer)
    return [questions[index].model_copy(update={"answer": answer}) for index, answer in sorted(given.items())]


def as_examples(
    questions: Sequence[Question], avoid: Sequence[str], shots: int = 3, wordings: int = WORDINGS
) -> QuestionExamples:
    """``questions`` in the audit's prompt with ``shots`` examples, each in up to ``wordings``, with its first answer.

    Wordings whose prompt contains the answer are left out.
    """
    examples, indices = [], []
    for index, question in enumerate(questions):
        assert question.answer is not None  # set by ``answered``
        for wording in question.wordings[:wordings]:
            prompt = few_shot(wording, avoid, shots)
            if not mentions(prompt, [question.answer]):
                examples.append(Example(prompt, answer_text(question.answer)))
                indices.append(index)
    return QuestionExamples(tuple(examples), np.array(indices, dtype=np.int64))


def mismatched_examples(answers: QuestionExamples, prompts: QuestionExamples, per_answer: int) -> QuestionExamples:
    """Each answer after ``per_answer`` prompts that do not ask for it and do not mention it."""
    examples, indices = [], []
    question = {
        example.answer: index for index, example in zip(answers.question.tolist(), answers.examples, strict=True)
    }
    for answer, index in question.items():
        others = [example.prompt for example in prompts.examples if not mentions(example.prompt, [answer])]
        for prompt in others[:per_answer]:
            examples.append(Example(prompt, answer))
            indices.append(index)
    return QuestionExamples(tuple(examples), np.array(indices, dtype=np.int64))


def n_choosing(n_questions: int) -> int:
    """Half of a concept's questions, or what leaves enough to the held-out split."""
    fewer = n_questions - FEWEST_QUESTIONS
    return min(n_questions // 2, fewer) if fewer >= MIN_CHOOSING else n_questions // 2


def _split(questions: Sequence[Question], rng: np.random.Generator, cut: int) -> tuple[list[Question], list[Question]]:
    """``cut`` of the questions, and the others, each in their order."""
    order = rng.permutation(len(questions)).tolist()
    return [questions[at] for at in sorted(order[:cut])], [questions[at] for at in sorted(order[cut:])]
