"""Collects the readings of patching while the models of an audit are in memory one after the other.

The base comes first: its activations are kept. Each other model is then read with parts of the base in it. At the end
the base is loaded once more and read with the other models' streams in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.architectures import Architecture
from audit.checkpoint import Checkpoint
from audit.errors import AuditError, is_out_of_memory
from audit.models.loading import RunningModel
from audit.patching.direction import TRAINING_PASSES, updates_along
from audit.patching.injection import inject
from audit.patching.items import PatchItem, patch_items
from audit.patching.lens import LensReadings, in_item_order, read_lens
from audit.patching.readings import SMALL, PatchReadings
from audit.patching.restoration import BaseRun, Restored, in_order, n_patches, restore
from audit.patching.runs import BaseAnswers, Run, Scores, States
from audit.patching.sites import Alignment, sites_of
from audit.progress import SILENT, Progress
from audit.questions.items import ItemSet
from audit.settings import Settings
from audit.unlearning.direction import Along

FULL: Final = "full"
OTHER: Final = "other"
TOO_FEW: Final = "the base says fewer than two facts that have a counterpart of the same type about another subject"
NOT_READ: Final = "the base was not loaded a second time"
SAME_WEIGHTS: Final = "the unlearned model has the base's weights, so nothing of the base can be put into it"


class Collector(Protocol):
    """Reads something of a topic in every model of an audit, the base first."""

    @property
    def wants_base(self) -> bool:
        """Whether ``finish`` must be called with the base, loaded once more."""

    def read(self, model: RunningModel, role: str, items: ItemSet, right: Mapping[str, bool]) -> None:
        """Read one model.

        Args:
            items: of the unmodified models.
            right: prompt id -> whether this model's answer is right.
        """

    def finish(self, base: RunningModel) -> None:
        """Read what needs the base again."""

    def result(self) -> PatchReadings | str:
        """What was read, or the reason why nothing was."""


def not_collected(settings: Settings, identical: bool = False) -> dict[str, str]:
    """``"patching"`` -> the reason why it does not run, if there is one.

    Args:
        identical: whether the unlearned model has the base's weights.
    """
    if settings.attacks != FULL:  # it takes as long as an attack
        return {"patching": f"not run by --attacks {settings.attacks}"}
    return {"patching": SAME_WEIGHTS} if identical else {}


def forward_passes(items: Sequence[PatchItem], architecture: Architecture, others: int) -> float:
    """Number of forward passes of one question that patching takes, all models together.

    Args:
        others: number of models beside the base.
    """
    injected = (architecture.n_layers - 1) / 2  # a stream put in after each block, of which only those above run
    each = 2 + injected + others * (1 + 2 * injected) + 1 + others * injected
    facts = sum(not item.control for item in items)
    return each * len(items) + others * n_patches(architecture) * facts + TRAINING_PASSES


class PatchCollector:
    """The readings of patching.

    Args:
        checkpoint, unlearned: the weights of base and unlearned model.
    """

    def __init__(
        self, checkpoint: Checkpoint, unlearned: Checkpoint, settings: Settings, progress: Progress = SILENT
    ) -> None:
        self.checkpoint, self.unlearned, self.settings, self.progress = checkpoint, unlearned, settings, progress
        self.reason: str | None = None
        self.items: tuple[PatchItem, ...] = ()
        self.batches: list[list[int]] = []
        self.base: list[BaseRun] = []
        self.states: dict[str, list[States]] = {}
        self.plain: dict[str, Scores] = {}
        self.restored: dict[str, tuple[Restored, ...]] = {}
        self.into_base: dict[str, Scores] = {}
        self.from_base: dict[str, Scores] = {}
        self.from_other: dict[str, Scores] = {}
        self.lens: dict[str, LensReadings] = {}
        self.base_lens: dict[str, LensReadings] = {}
        self.moved: dict[str, np.ndarray] = {}
        self.shift: dict[str, np.ndarray] = {}
        self.along: dict[str, Along] | str = NOT_READ
        self.passes = 0.0

    @property
    def wants_base(self) -> bool:
        return self.reason is None and "unlearned" in self.plain

    def result(self) -> PatchReadings | str:
        if self.reason is not None:
            return self.reason
        return PatchReadings(
            self.items,
            self.plain,
            self.restored,
            self.into_base,
            self.from_base,
            self.from_other,
            self.lens,
            self.base_lens,
            self.moved,
            self.shift,
            round(self.passes),
            self.along,
        )

    def read(self, model: RunningModel, role: str, items: ItemSet, right: Mapping[str, bool]) -> None:
        if role == "base":
            self.items = patch_items(items, right, model.context, self.settings.seed)
            self.batches = self._batches()
            if sum(not item.control for item in self.items) < 2:
                self.reason = TOO_FEW
        if self.reason is None:
            self.progress.step(f"Patching the {role} model")
            self._attempt(self._read_base if role == "base" else self._read_other, model, role)

    def finish(self, base: RunningModel) -> None:
        if self.wants_base:
            self.progress.step("Patching the base with the other models' states")
            self._attempt(self._read_base_again, base, "base")
            self._attempt(self._read_along, base, "base")
        self.base.clear()

    def _attempt(self, step: Callable[[RunningModel, str], None], model: RunningModel, role: str) -> None:
        try:
            with torch.inference_mode():
                step(model, role)
        except AuditError as error:
            self.reason = f"patching failed in the {role} model: {error.message}"
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.reason = f"patching ran out of memory in the {role} model; try a smaller --batch-size"

    def _batches(self) -> list[list[int]]:
        """Items of similar length; no batch has both facts and controls."""
        batches = []
        for control in (False, True):
            chosen = [index for index, item in enumerate(self.items) if item.control == control]
            chosen.sort(key=lambda index: len(self.items[index].row.ids))
            size = self.settings.batch_size
            batches += [chosen[start : start + size] for start in range(0, len(chosen), size)]
        return batches

    def _is_fact(self, batch: Sequence[int]) -> bool:
        return not self.items[batch[0]].control

    def _run(self, model: RunningModel, other: bool = False) -> Run:
        return Run(model, [item.other_row if other else item.row for item in self.items], self.batches)

    def _read_base(self, model: RunningModel, role: str) -> None:
        """Everything that other models will be compared with, and the base with its own streams exchanged."""
        run, other = self._run(model), self._run(model, other=True)
        sites = sites_of(model.architecture)
        plain, exchanged = [], []
        self.states = {role: [], OTHER: []}
        for batch in self.batches:
            kept = sites if self._is_fact(batch) else {}
            recorded, twin = run.record(batch, kept), other.record(batch, kept)
            answers = BaseAnswers(recorded.logits, run.targets(batch), run.counts(batch))
            lengths = [[len(each.rows[index].ids) - each.shared for index in batch] for each in (run, other)]
            self.base.append(BaseRun(answers, recorded.activations, twin.activations, Alignment.of(*lengths)))
            self.states[role].append(recorded.states)
            self.states[OTHER].append(twin.states)
            plain.append(answers.score(recorded.logits))
            exchanged.append(inject(run, batch, recorded, twin.states, answers))
        self.plain[role] = in_order(self.batches, plain)
        self.into_base[OTHER] = in_order(self.batches, exchanged)
        self.lens[role] = self._lens(model, role)
        self.passes += run.passes + other.passes

    def _read_other(self, model: RunningModel, role: str) -> None:
        """One of the other models, as it is and with the base's parts in it."""
        run = self._run(model)
        plain, own, other = [], [], []
        self.states[role] = []
        for number, batch in enumerate(self.batches):
            recorded, answers = run.record(batch), self.base[number].answers
            self.states[role].append(recorded.states)
            plain.append(answers.score(recorded.logits))
            own.append(inject(run, batch, recorded, self.states["base"][number], answers))
            other.append(inject(run, batch, recorded, self.states[OTHER][number], answers))
        self.plain[role] = in_order(self.batches, plain)
        self.from_base[role] = in_order(self.batches, own)
        self.from_other[role] = in_order(self.batches, other)
        self.lens[role] = self._lens(model, role)
        self.moved[role], self.shift[role] = self._distances(role)
        self.restored[role] = self._restored(model)
        self.passes += run.passes

    def _restored(self, model: RunningModel) -> tuple[Restored, ...]:
        """What each class of the base brings back of the facts."""
        facts = [number for number, batch in enumerate(self.batches) if self._is_fact(batch)]
        run = Run(model, [item.row for item in self.items], [self.batches[number] for number in facts])
        restored = tuple(restore(run, [self.base[number] for number in facts], self.checkpoint))
        self.passes += run.passes
        return restored

    def _read_base_again(self, model: RunningModel, role: str) -> None:
        """The base with the streams of the other models in it."""
        run = self._run(model)
        others = [name for name in self.plain if name != role]
        scores: dict[str, list[np.ndarray]] = {name: [] for name in others}
        for number, batch in enumerate(self.batches):
            recorded, answers = run.record(batch), self.base[number].answers
            for name in others:
                scores[name].append(inject(run, batch, recorded, self.states[name][number], answers))
        for name in others:
            self.into_base[name] = in_order(self.batches, scores[name])
            self.base_lens[name] = self._lens(model, name)
        self.passes += run.passes

    def _read_along(self, model: RunningModel, role: str) -> None:
        """The direction in which the base moves when it is trained on the facts; all else is read already."""
        facts = [item for item in self.items if not item.control]
        try:
            self.along = updates_along(model, self.unlearned, facts, self.progress)
        except Exception as error:
            if not (isinstance(error, AuditError) or is_out_of_memory(error)):
                raise
            self.along = error.message if isinstance(error, AuditError) else "out of memory"
        self.passes += TRAINING_PASSES

    def _distances(self, role: str) -> tuple[np.ndarray, np.ndarray]:
        """See ``PatchReadings.moved`` and ``PatchReadings.shift``."""
        own, base, other = (in_item_order(self.batches, self.states[each]) for each in (role, "base", OTHER))
        moved, shift = [], []
        for one, before, another in zip(own, base, other, strict=True):
            away = _length(one - before)
            moved.append(away / np.maximum(_length(another - before), SMALL))
            shift.append(away / np.maximum(_length(before), SMALL))
        return np.stack(moved, axis=1), np.stack(shift, axis=1)

    def _lens(self, model: RunningModel, role: str) -> LensReadings:
        return read_lens(model, self.items, in_item_order(self.batches, self.states[role]))


def _length(states: Float[Tensor, "n_layers n_tokens d_model"]) -> Float[np.ndarray, " n_layers"]:
    """Mean norm over the tokens."""
    length: np.ndarray = states.double().norm(dim=-1).mean(-1).numpy()
    return length
