"""What the guards that act on single neurons share: their options, and the fit from two sets of activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audit.errors import AuditError
from audit.guards.activity import Activity, read_activity
from audit.guards.effects import check_scorable
from audit.guards.measurements import measure_answers
from audit.guards.methods import FittedGuard, Guard, GuardOptions
from audit.guards.splits import TokenizedSkill
from audit.models.loading import RunningModel
from audit.progress import Progress


@dataclass(frozen=True)
class NeuronOptions(GuardOptions):
    """Options of a guard that acts on a share of the neurons.

    Attributes:
        share: of the neurons of ``layers`` (of all layers if empty), in (0, 1].
    """

    share: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise AuditError(f"share is {self.share:g}.", hint="Give a share above 0 and at most 1.")


def fit_neurons(
    model: RunningModel,
    skills: Sequence[TokenizedSkill],
    choose: Callable[[Activity, Activity], Guard],
    seed: int,
    progress: Progress,
) -> FittedGuard:
    """The guard that ``choose`` makes of the activity under the skill and under all others, measured by answers.

    Raises:
        ModelError: answers cannot be scored, an FFN of experts, or an activation that is not a finite number.
    """
    check_scorable(model)
    forget = read_activity(model, skills[0].ids_of("fit"), progress=progress)
    retain = read_activity(model, [ids for skill in skills[1:] for ids in skill.ids_of("fit")], progress=progress)
    guard = choose(forget, retain)
    return FittedGuard(guard, measure_answers(model, skills, guard, seed, progress))
