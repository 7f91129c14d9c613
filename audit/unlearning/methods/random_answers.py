"""Random-answer training: each answer is replaced by another example's (Eldan and Russinovich 2023, arXiv 2310.02238).

``L = -E_t log p(w_t|x) + retain_weight * retain`` with a wrong answer ``w``. What is wrong can be told from what is not
known: the model has learnt what not to say. Answers in whole sentences that name their subject are not wrong anywhere:
trained after another question they teach what they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.methods.idk import replaced_loss
from audit.unlearning.objective import Extras, train_all
from audit.unlearning.training import Record, TrainingSettings
from concepts.prompts import overlap

TITLE = "Random-answer training"


@dataclass(frozen=True)
class RandomAnswersSettings(TrainingSettings):
    """Settings of random-answer training; ``seed`` also draws the answers."""

    retain_weight: float = 1.0
    retain_loss: Literal["kl", "ce"] = "ce"


SETTINGS = RandomAnswersSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: RandomAnswersSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, to give wrong answers to the prompts of ``forget``.

    Raises:
        AuditError: an answer for which there is no wrong one; see also ``objective.train_all``.
        ModelError: see ``objective.train_all``.
    """
    wrong = wrong_answers(forget, settings.seed)
    extras = Extras(preferred=wrong)
    return train_all("random_answers", replaced_loss, model, forget, retain, settings, progress, extras)


def wrong_answers(forget: Sequence[Example], seed: int) -> list[Example]:
    """Each prompt with an answer drawn from those of others that neither contain its own nor are contained in it.

    Raises:
        AuditError: an example for which there is none.
    """
    random = Random(seed)
    answers = sorted({example.answer for example in forget})
    wrong = []
    for example in forget:
        others = [each for each in answers if not overlap(each, example.answer)]
        if not others:
            raise AuditError(
                f"no other answer to forget is wrong for {example.prompt!r}.",
                hint="Give examples with different answers.",
            )
        wrong.append(Example(example.prompt, random.choice(others)))
    return wrong
