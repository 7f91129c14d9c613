"""Demotion: the smallest change of a value vector that lowers the concept's tokens to the middle of the vocabulary.

After REVS (Ashuach et al. 2024, arXiv 2406.09325), which demotes a token's rank neuron by neuron. The logit of each
concept token in ``s * W_U v``, with ``s`` the neuron's sign, must not exceed the logit at rank ``FLOOR``; the result is
the nearest vector to ``v`` that satisfies this. The problem is convex with one solution, ``v - s * A^T x``, where ``A``
are the token rows and ``x >= 0`` solves the dual, a non-negative least squares problem.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.errors import ConceptError
from audit.interventions import Change, EditInputs, Rows, stored_rows
from audit.models.loading import RunningModel
from concepts.neuron import Neuron

TITLE = "The concept's tokens demoted in the chosen value vectors"
DOSES = (0.25, 0.5, 0.75, 1.0)
DRAWS = 1
TRAINS = False
FLOOR = 0.5
"""Share of the vocabulary that must rank above a demoted token: the middle, where a vector does not write it."""
RIDGE = 1e-9
"""Relative to the rows' squared norm; keeps the problem regular if two tokens have equal rows."""


def target(model: RunningModel, neurons: Sequence[Neuron], inputs: EditInputs) -> Change:
    """Each vector with every concept token at or below the logit of the floor.

    Raises:
        ConceptError: the concept has no tokens.
    """
    if not len(inputs.tokens):
        raise ConceptError("no token of the concept is known.", hint="Give it seeds that are common words.")
    signs = {place: place.sign for place in neurons}
    change = {}
    for layer, rows in stored_rows(model, neurons).items():
        pairs = zip(rows.neurons, rows.values, strict=True)
        values = [demoted(value, signs[Neuron(layer, neuron)], inputs) for neuron, value in pairs]
        change[layer] = Rows(rows.neurons, torch.stack(values))
    return change


def demoted(vector: Float[Tensor, " d_model"], sign: int, inputs: EditInputs) -> Float[Tensor, " d_model"]:
    """The nearest vector to ``vector`` with the concept's tokens at or below the floor."""
    from scipy.optimize import nnls  # slow to import

    logits = (sign * (inputs.W_U @ vector)).numpy().astype(np.float64)
    floor = np.sort(logits)[::-1][int(FLOOR * len(logits))]
    rows = inputs.W_U[torch.from_numpy(inputs.tokens)].numpy().astype(np.float64)
    above = np.maximum(logits[inputs.tokens] - floor, 0.0)
    if not above.any():
        return vector.clone()
    gram = rows @ rows.T
    lower = np.linalg.cholesky(gram + RIDGE * gram.trace() * np.eye(len(gram)))
    slack = logits[inputs.tokens] - floor  # negative for a token that is below the floor and may rise to it
    push, _ = nnls(lower.T, np.linalg.solve(lower, slack))
    return vector - sign * torch.from_numpy(push @ rows).to(torch.float32)
