"""What a change of the weights does to the outputs of any network: their Kolmogorov-Smirnov distance.

For networks that are no language model, whose outputs only their owner can compute. The distance is the largest
difference between the shares of outputs below any value: 0 for equal outputs, 1 for two sets that do not overlap.
Compare it on forgotten and on retained inputs. A small one does not say that the networks are alike: networks of
different seeds that fit the same data have it too, and other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from audit.checkpoint import open_checkpoint
from audit.errors import AuditError

State = Mapping[str, Tensor]
Inputs = TypeVar("Inputs")


@dataclass(frozen=True)
class OutputChange:
    """The outputs of two networks on the same inputs.

    Attributes:
        distance: Kolmogorov-Smirnov distance, 0 to 1.
        p_value: two-sided and asymptotic, of outputs of one distribution. Both networks are given the same inputs,
            which makes it larger than it would be for independent ones.
        n: number of inputs.
    """

    distance: float
    p_value: float
    n: int


def compare_outputs(
    function: Callable[[State, Inputs], Float[Tensor, " n"]],
    before: Path | str | State,
    after: Path | str | State,
    inputs: Inputs,
) -> OutputChange:
    """Compare what ``function`` computes with the weights ``before`` and ``after``.

    Args:
        function: gives one number for each input, for example by ``torch.func.functional_call``; of outputs with
            several numbers, one that tells what should be forgotten.
        before, after: weight files, or tensors by name.

    Raises:
        CheckpointError: a file that cannot be read.
        AuditError: the outputs are not one finite number for each input, or there are fewer than two.
    """
    from scipy.stats import ks_2samp  # slow to import

    with torch.inference_mode():
        outputs = [function(_tensors(state), inputs) for state in (before, after)]
    for each in outputs:
        if each.dim() != 1 or each.shape != outputs[0].shape or len(each) < 2:
            raise AuditError(
                f"the function gives outputs of shape {list(each.shape)}.",
                hint="It must give one number for each of at least two inputs.",
            )
        if not torch.isfinite(each).all():
            raise AuditError("the function gives outputs that are not finite.")
    one, other = (each.double().cpu().numpy() for each in outputs)
    found = ks_2samp(one, other, method="asymp")  # the exact one fails for many ties
    return OutputChange(float(found.statistic), float(found.pvalue), len(one))


def _tensors(state: Path | str | State) -> State:
    if isinstance(state, Mapping):
        return state
    checkpoint = open_checkpoint(Path(state))
    return {name: checkpoint.tensor(name) for name in checkpoint.tensors}
