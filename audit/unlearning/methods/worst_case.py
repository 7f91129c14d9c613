"""Worst-case forgetting: only what is hardest to forget is trained on (Fan et al. 2024, arXiv 2403.07362).

Which examples these are is found first, see ``audit.unlearning.selection``; then the forget loss of another method is
minimised on them. A random set of the same size is forgotten more easily, so what is left of this one says more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.methods._losses import LossName, loss_of
from audit.unlearning.objective import train_all
from audit.unlearning.selection import hardest_first
from audit.unlearning.training import Record, TrainingSettings, prepare, require_positive

TITLE = "Unlearning of what is hardest to forget"


@dataclass(frozen=True)
class WorstCaseSettings(TrainingSettings):
    """Settings of worst-case forgetting.

    Attributes:
        share: of the examples to forget, how many are chosen.
        rounds, selection_steps: how often the weights of the choice are changed, and updates before each change.
        loss: the method whose forget loss is minimised, with that method's own settings.
    """

    share: float = 0.5
    rounds: int = 5
    selection_steps: int = 16
    loss: LossName = "npo"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "rounds", "selection_steps")
        if not 0 < self.share < 1:
            raise AuditError(f"share must be between 0 and 1, but is {self.share}.")


SETTINGS = WorstCaseSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: WorstCaseSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train every weight of ``model``, in place, against the hardest answers of ``forget``; the others are not used.

    The record has all examples, hardest first, with their loss in nats per token after the last choice.

    Raises:
        AuditError: there are too few examples to choose among; see also ``objective.train_all``.
        ModelError: see ``objective.train_all``.
    """
    answers, held = prepare(model, forget, retain, settings.retain_weight > 0)
    m = max(1, round(settings.share * len(forget)))
    kept = held if settings.retain_weight else []
    ranking = hardest_first(model, answers, kept, m, settings, settings.rounds, settings.selection_steps, progress)
    chosen = [forget[index] for index in ranking.order[:m]]
    record = train_all("worst_case", loss_of(settings.loss), model, chosen, retain, settings, progress)
    ranked = [{"prompt": forget[index].prompt, "loss": float(ranking.losses[index])} for index in ranking.order]
    return record.with_changed(hardest_first=ranked)
