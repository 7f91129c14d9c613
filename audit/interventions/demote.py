"""Demotion: the concept's tokens are pushed down in what a value vector writes, by the smallest change that does it.

After REVS (Ashuach et al. 2024, arXiv 2406.09325), which demotes a token's rank neuron by neuron. Here, for
``s * W_U v`` (``s`` the side that writes the concept), each concept token's logit must not exceed the logit that stood
at rank ``FLOOR``; among all vectors that satisfy this, the nearest to ``v`` is taken. That is a convex problem with one
answer: ``v - s * A^T x``, with ``A`` the token rows and ``x >= 0`` the solution of its dual, a non-negative least
squares problem.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from audit.errors import ConceptError
from audit.interventions import Change, EditInputs, Rows, by_layer, stored_rows
from audit.models.loading import RunningModel
from concepts.neuron import Neuron

TITLE = "The concept's tokens demoted in the chosen value vectors"
DOSES = (0.25, 0.5, 0.75, 1.0)
DRAWS = 1
TRAINS = False
FLOOR = 0.5
"""Share of the vocabulary that must stand above a demoted token: the middle, where a vector says nothing of it."""
RIDGE = 1e-9
"""Keeps equal token rows (a word and its twin) from making the problem singular; relative to the rows' squared norm."""


def target(model: RunningModel, vectors: Sequence[Neuron], inputs: EditInputs) -> Change:
    """Each vector with every concept token at or below the logit of the floor.

    Raises:
        ConceptError: no concept token is known.
    """
    if not len(inputs.tokens):
        raise ConceptError("no token of the concept is known.", hint="Give it seeds that are common words.")
    by_layer(model, vectors)
    signs = {neuron: neuron.sign for neuron in vectors}
    return {
        layer: Rows(
            rows.neurons,
            torch.stack(
                [
                    demoted(value, signs[Neuron(layer, neuron)], inputs)
                    for neuron, value in zip(rows.neurons, rows.values, strict=True)
                ]
            ),
        )
        for layer, rows in stored_rows(model, vectors).items()
    }


def demoted(vector: torch.Tensor, sign: int, inputs: EditInputs) -> torch.Tensor:
    """The nearest vector to ``vector`` ``[d_model]`` with the concept's tokens at or below the floor."""
    from scipy.optimize import nnls  # slow to import

    logits = (sign * (inputs.W_U @ vector)).numpy().astype(np.float64)
    floor = np.sort(logits)[::-1][int(FLOOR * len(logits))]
    rows = inputs.W_U[torch.from_numpy(inputs.tokens)].numpy().astype(np.float64)
    above = np.maximum(logits[inputs.tokens] - floor, 0.0)
    if not above.any():
        return vector.clone()
    gram = rows @ rows.T
    lower = np.linalg.cholesky(gram + RIDGE * gram.trace() * np.eye(len(gram)))
    slack = logits[inputs.tokens] - floor  # negative where a token is below already, and may rise that far
    push, _ = nnls(lower.T, np.linalg.solve(lower, slack))
    return vector - sign * torch.from_numpy(push @ rows).to(torch.float32)
