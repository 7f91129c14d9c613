"""The update from base to unlearned along the base's knowledge direction, matrix by matrix.

The base, which is in memory at the end, is trained further on the facts (``audit.unlearning.direction``); the unlearned
model's matrices are taken from its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from audit.checkpoint import Checkpoint
from audit.models.loading import RunningModel
from audit.models.packing import Tokens
from audit.patching.items import FACTS, PatchItem
from audit.progress import Progress
from audit.unlearning.direction import Along, along, reinforced
from audit.unlearning.parameters import block_matrices
from audit.unlearning.training import TrainingSettings

TRAINING: Final = TrainingSettings(steps=6, learning_rate=2e-5, forget_batch=FACTS)
"""Few steps, each on every fact; AdamW's first steps have the same size whatever the loss."""
BACKWARD: Final = 3
"""A step of training in forward passes."""
TRAINING_PASSES: Final = TRAINING.steps * TRAINING.forget_batch * BACKWARD
"""Forward passes of one question that the training takes."""


def updates_along(
    base: RunningModel, unlearned: Checkpoint, facts: Sequence[PatchItem], progress: Progress
) -> dict[str, Along]:
    """Matrix -> its update relative to the direction; ``base`` stays as it is.

    Raises:
        ModelError: training did not make the facts likelier.
    """
    with torch.inference_mode(False):
        found = reinforced(base, [Tokens(fact.prompt_ids, fact.answer_ids) for fact in facts], TRAINING, progress)
        updates = {}
        for name in block_matrices(base):
            before = found.before[name]
            updates[name] = along(unlearned.parameter(name).to(before) - before, found.direction(name))
        return updates
