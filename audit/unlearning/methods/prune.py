"""Magnitude pruning alone: the control of ``prune_first``, so that what pruning destroys is not taken for unlearning.

The smallest entries of all matrices of attention and FFN together are set to zero (Jia et al. 2023, arXiv 2304.04934,
who prune image classifiers to 95 %; a language model breaks long before that).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.unlearning.parameters import block_matrices
from audit.unlearning.sparsity import require_sparsity, set_to_zero, smallest, zero_shares
from audit.unlearning.training import MethodSettings, Record

TITLE = "Magnitude pruning"


@dataclass(frozen=True)
class PruneSettings(MethodSettings):
    """Settings of pruning.

    Attributes:
        sparsity: share of the matrices' entries that are set to zero.
    """

    sparsity: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sparsity(self.sparsity)


SETTINGS = PruneSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: PruneSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Prune ``model``, in place; no example is used."""
    matrices = block_matrices(model)
    progress.step("Pruning")
    set_to_zero(matrices, smallest(matrices, settings.sparsity))
    return Record(method="prune", settings=settings.as_json(), changed={"share_of_zeros": zero_shares(matrices)})
