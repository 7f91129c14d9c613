"""The margins of a concept's answers in some models; ``klom`` compares those of many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.models.scoring import margins as scored
from audit.questions.items import FACT
from audit.questions.kinds import PosedQuestion, kinds
from concepts.concept import Concept
from concepts.prompts import answer_text


@dataclass(frozen=True)
class Margins:
    """The margins of the same items in several models.

    Attributes:
        items: what tells the items apart: their questions.
        values: margin of each item in each model, in nats.
    """

    items: tuple[str, ...]
    values: Float[np.ndarray, "n_models n_items"]


def margins(models: Iterable[RunningModel], concept: Concept, kind: str = FACT) -> Margins:
    """Margin of the right answer to each of the concept's questions: the mean over its tokens of the log odds.

    Args:
        models: read one after the other, so that a generator holds one in memory.
        kind: kind of question, asked in the audit's own prompt; questions without an answer are left out.

    Raises:
        AuditError: no question with an answer, no model, or every example question mentions the concept.
        ModelError: see ``scoring.score``.
    """
    questions = [question for question in kinds()[kind].questions(concept, None) if question.answer]
    examples = [_example(concept, kind, question) for question in questions]
    if not examples:
        raise AuditError(f"{concept.title} has no questions of the kind {kind!r} with an answer.")
    rows = [scored(model, examples) for model in models]
    if not rows:
        raise AuditError("there is no model to read margins from.")
    return Margins(tuple(question.wording for question in questions), np.stack(rows))


def _example(concept: Concept, kind: str, question: PosedQuestion) -> Example:
    avoid = [concept.title, *concept.seeds, *question.avoid]
    try:
        prompt = kinds()[kind].prompt(question.wording, avoid, concept.examples)
    except ValueError as error:
        raise AuditError(f"{error}.", where=concept.title) from error
    begun = prompt + answer_text(question.prefix) if question.prefix else prompt
    return Example(begun, answer_text(question.answer or ""))
