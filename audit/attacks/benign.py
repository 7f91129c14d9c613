"""Benign fine-tuning: unrelated questions and neutral text, up to an update as large as the unlearning's.

Hiding may not survive training on anything else (arXiv 2409.18025 recovers much with ten unrelated samples). The
update is scaled to the L2 norm of the one from base to unlearned, relative to the norm of the weights, so that it is
neither a smaller change than the unlearning nor one that breaks the model by its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from audit.attacks import AttackedModel, AttackInput
from audit.attacks.relearning import question_example, sentence_examples
from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.questions.conditions import Condition
from audit.unlearning.fine_tuning import FineTuning, fine_tune, preserved, trained_tokens
from concepts.concept import Concept, neutral_text
from concepts.facts import facts_of
from concepts.prompts import mentions

TITLE = "benign fine-tuning"
COST = "training"
INPUT = "benign"
LEVEL = "full"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

STEPS: Final = 16
"""Most steps; training ends earlier where the update is large enough."""
BATCH: Final = 16


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition, in which all facts are read.

    Raises:
        AuditError: the size of the update or the learning rate is not known.
    """
    items, concept = given.items.facts(), given.topic.concept
    examples = [] if concept is None else benign_examples(concept)
    if not (items.groups or items.written) or not examples:
        return
    condition = Condition("benign", "an update of the same norm", given.settings.seed)
    per_step = trained_tokens(examples, given.model, BATCH)
    if given.model is None or condition in given.done:
        yield AttackedModel(condition, items, trained_tokens=STEPS * per_step)
        return
    if given.update is None or given.learning_rate is None:
        raise AuditError("the size of the unlearning's update, or a learning rate chosen on the twin, is not known.")
    settings = FineTuning(given.learning_rate, BATCH, given.settings.seed)
    with preserved(given.model) as originals:
        steps = _train(given.model, originals, examples, settings, given.update * norm(originals))
        yield AttackedModel(condition, items, given.model, trained_tokens=steps * per_step)


def benign_examples(concept: Concept) -> list[Example]:
    """Unrelated questions with their answers and neutral text, without those that mention an answer of a fact."""
    answers = [answer for fact in facts_of(concept) for answer in fact.question.answers]
    questions = [
        question_example(question.question, question.answer)
        for question in concept.unrelated
        if question.answer and not mentions(f"{question.question} {question.answer}", answers)
    ]
    return questions + sentence_examples(concept.neutral_text or neutral_text(), answers)


def norm(tensors: Iterable[Tensor]) -> float:
    """L2 norm over all ``tensors``."""
    return math.sqrt(sum(float(tensor.float().norm()) ** 2 for tensor in tensors))


def _train(
    model: RunningModel, originals: Sequence[Tensor], examples: Sequence[Example], settings: FineTuning, size: float
) -> int:
    """Train until the update has the norm ``size``, at most ``STEPS`` steps, and scale it to that norm.

    Returns:
        The number of steps.
    """
    parameters: list[nn.Parameter] = list(model.model.parameters())
    moved, steps = 0.0, 0
    for step in fine_tune(model, examples, range(1, STEPS + 1), settings) if size > 0 else ():
        moved = norm(parameter.detach() - original for parameter, original in zip(parameters, originals, strict=True))
        steps = step
        if moved >= size:
            break
    if moved > 0:
        with torch.no_grad():
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.copy_(original + (parameter - original) * (size / moved))
    return steps
