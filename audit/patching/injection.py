"""One model's residual streams put into another model where it predicts an answer, layer by layer.

This is the patch of the unlearning depth score (arXiv 2605.24614): a run of the receiving model in which the stream
after one block is the giving model's, at the positions that predict the answer's tokens and nowhere else. Only the
blocks above are run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from audit.models.hooks import BlockInputs, starting_at
from audit.patching.runs import BaseAnswers, Recorded, Run, States


def inject(run: Run, batch: Sequence[int], recorded: Recorded, states: States, answers: BaseAnswers) -> np.ndarray:
    """The fields of ``Scores`` with the stream after each block replaced ``[4, n_layers, n_rows]``.

    Args:
        run: of the receiving model.
        recorded: the batch as that model runs it by itself.
        states: of the giving model, for the rows of the batch.
    """
    n_layers = run.model.architecture.n_layers
    rows, positions = run.places(batch)
    given = torch.cat(states, dim=1)
    scores = []
    for layer in range(n_layers):
        above = layer + 1
        entering = recorded.inputs.entering[above].clone()
        entering[rows, positions] = given[layer].to(entering.device, entering.dtype)
        with starting_at(run.model, above, BlockInputs({above: entering}, recorded.inputs.tuples)):
            scores.append(answers.score(run.forward(batch, (n_layers - above) / n_layers)))
    return np.stack(scores, axis=1)
