"""Relabelling: each answer is replaced by another of its type, always the same (Chang et al. 2024, arXiv 2405.15662).

``L = -E_t log p(w_t|x) + retain_weight * retain`` with the wrong answer ``w``: poisoning with targeted labels, where
``random_answers`` draws one of the whole set for each question. All questions with one answer get the next of its type
in the alphabet, after their own ``prefix``. The model learns what to say instead and need not lose anything: a control
for metrics of what is left inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.methods.idk import replaced_loss
from audit.unlearning.objective import Extras, train_all
from audit.unlearning.training import Record, TrainingSettings
from audit.unlearning.training_examples import FactExample
from concepts.facts import Fact, wrong_answers
from concepts.prompts import answer_text

TITLE = "Targeted wrong answers of the same type"


@dataclass(frozen=True)
class RelabellingSettings(TrainingSettings):
    """Settings of relabelling."""

    retain_weight: float = 1.0
    retain_loss: Literal["kl", "ce"] = "ce"


SETTINGS = RelabellingSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: RelabellingSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, to give wrong answers of the right type to the facts of ``forget``.

    Examples that are no fact, or whose type has no wrong answer, are left out; the record has their number.

    Raises:
        AuditError: no example is left; see also ``objective.train_all``.
        ModelError: see ``objective.train_all``.
    """
    facts = [example.fact for example in forget if isinstance(example, FactExample)]
    pairs = []
    for example in forget:
        wrong = counterpart(example.fact, facts) if isinstance(example, FactExample) else None
        if wrong is not None:
            pairs.append((example, Example(example.prompt, wrong)))
    if forget and not pairs:
        raise AuditError(
            "no answer to forget has a wrong one of its type.",
            hint="Give questions with a type and different answers, or choose random-answers.",
        )
    replaced, preferred = [example for example, _ in pairs], [wrong for _, wrong in pairs]
    extras = Extras(preferred=preferred)
    record = train_all("relabelling", replaced_loss, model, replaced, retain, settings, progress, extras)
    return record.with_changed(left_out=len(forget) - len(pairs))


def counterpart(fact: Fact, facts: Sequence[Fact]) -> str | None:
    """The wrong answer to ``fact`` as it follows the question: the next of its type; ``None`` if there is none."""
    others = wrong_answers(fact, facts)
    if not others:
        return None
    wrong = next((answer for answer in others if answer > fact.answer), others[0])
    return answer_text(f"{fact.question.prefix} {wrong}")
