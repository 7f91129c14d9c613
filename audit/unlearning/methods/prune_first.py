"""Prune first, then unlearn: NPO on a model whose smallest weights are zero and stay zero (arXiv 2304.04934).

Jia et al. (2023) find that unlearning is closer to retraining on a sparse model. ``prune`` with the same sparsity is
its control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.methods import npo
from audit.unlearning.objective import Extras, train_all
from audit.unlearning.parameters import block_matrices
from audit.unlearning.sparsity import require_sparsity, set_to_zero, smallest, zero_shares
from audit.unlearning.training import Record, unused

TITLE = "Pruning, then negative preference optimization"


@dataclass(frozen=True)
class PruneFirstSettings(npo.NPOSettings):
    """Settings of pruning and then NPO.

    Attributes:
        sparsity: share of the matrices' entries that are set to zero.
    """

    sparsity: float = 0.3
    lora_rank: int = unused(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sparsity(self.sparsity)


SETTINGS = PruneFirstSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: PruneFirstSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Prune ``model`` and train what is left of it against the answers of ``forget``, in place.

    The reference of NPO, and of its retain term, is the pruned model.

    Raises:
        AuditError, ModelError: see ``objective.train_all``.
    """
    matrices = block_matrices(model)
    masks = smallest(matrices, settings.sparsity)
    set_to_zero(matrices, masks)

    def hold(done: int, learning_rate: float) -> None:
        set_to_zero(matrices, masks)

    loss = partial(npo.forget_loss, beta=settings.beta)
    record = train_all("prune_first", loss, model, forget, retain, settings, progress, Extras(after=hold))
    return record.with_changed(share_of_zeros=zero_shares(matrices))
