"""A concept's questions for causal tests: those the base answers, in every wording, split once for good.

Questions on the choosing side decide which vectors are taken and how strongly; those on the reporting side are read at
the end alone. A question's wordings stay on its side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from audit.errors import ConceptError
from audit.items import item_set
from audit.progress import SILENT, Progress
from audit.readings import generate
from audit.running import RunningModel
from audit.unlearning.packing import Example
from concepts.concept import Concept, Question
from concepts.prompts import answer_text, cut, few_shot, mentions

FEWEST = 5
"""Known questions a concept needs: with fewer there is nothing to choose by, or nothing to report on."""
WORDINGS = 2
"""Wordings asked of each question; more cost time and say little more."""
MOST_UNRELATED = 40
NEW_TOKENS = 12
"""Tokens written to see whether the base knows an answer."""


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
        unknown: questions about the concept that the base does not answer; they are not used.
    """

    choose: Asked
    report: Asked
    unrelated_choose: Asked
    unrelated_report: Asked
    unknown: tuple[str, ...]


def known_questions(
    model: RunningModel, concept: Concept, seed: int = 0, batch_size: int = 16, progress: Progress = SILENT
) -> Questions:
    """The questions that ``model`` answers greedily as the concept says, split in halves by ``seed``.

    Raises:
        ConceptError: the model answers fewer than ``FEWEST`` of them, or hardly any unrelated one.
    """
    bare = concept.model_copy(update={"groups": (), "unrelated": concept.unrelated[: 2 * MOST_UNRELATED]})
    items = item_set(bare, model.tokenizer, model.context)
    written, _ = generate(model, items, batch_size, NEW_TOKENS, progress)
    texts = {prompt.id: cut(written[prompt.id]) for prompt in items.prompts}
    target = _known(concept.questions, "target", texts)
    unrelated = _known(bare.unrelated, "unrelated", texts)[:MOST_UNRELATED]
    if len(target) < FEWEST:
        raise ConceptError(
            f"the base answers {len(target)} of the {len(concept.questions)} questions about {concept.title}; "
            f"{FEWEST} are needed to choose vectors by some and report on others.",
            hint="Give questions that it answers in a few words, with the answers it gives.",
        )
    if len(unrelated) < FEWEST:
        raise ConceptError(f"the base answers {len(unrelated)} unrelated questions; {FEWEST} are needed as control.")
    rng = np.random.default_rng(seed)
    halves, others = _halves(target, rng), _halves(unrelated, rng)
    avoid = [concept.title, *concept.seeds]
    return Questions(
        choose=asked(halves[0], avoid),
        report=asked(halves[1], avoid),
        unrelated_choose=asked(others[0], avoid, wordings=1),
        unrelated_report=asked(others[1], avoid, wordings=1),
        unknown=tuple(question.question for question in concept.questions if question not in target),
    )


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


def _known(questions: Sequence[Question], kind: str, texts: dict[str, str]) -> list[Question]:
    return [
        question
        for index, question in enumerate(questions)
        if question.answer is not None and question.answered_in(texts.get(f"{kind}/{index}", ""))
    ]


def _halves(questions: Sequence[Question], rng: np.random.Generator) -> tuple[list[Question], list[Question]]:
    order = rng.permutation(len(questions)).tolist()
    middle = len(order) // 2
    return [questions[at] for at in sorted(order[:middle])], [questions[at] for at in sorted(order[middle:])]
