"""Projection: the part of a value vector that lies in the concept's token subspace is taken out.

The subspace is spanned by the leading directions of the concept tokens' rows of the head, the head's mean row taken
off: as many as hold ``ENERGY`` of their squared norm. What is left of the vector has no say in these tokens but for the
directions beyond.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from audit.errors import ConceptError
from audit.interventions import Change, EditInputs, Rows, stored_rows, value_rows
from audit.models.loading import RunningModel
from concepts.neuron import Neuron

TITLE = "The concept's token subspace taken out of value vectors"
DOSES = (0.25, 0.5, 0.75, 1.0)
DRAWS = 1
TRAINS = False
ENERGY = 0.9
"""Share of the token rows' squared norm that the subspace holds; the rest is mostly noise of single rows."""


def target(model: RunningModel, vectors: Sequence[Neuron], inputs: EditInputs) -> Change:
    """The chosen vectors, or every one of the model, without their component in the subspace.

    Raises:
        ConceptError: no concept token is known.
    """
    basis = token_subspace(inputs)
    chosen = stored_rows(model, vectors)
    if inputs.everywhere:
        d_mlp = model.architecture.d_mlp
        chosen = {
            layer: Rows(tuple(range(d_mlp)), value_rows(model, layer).to("cpu", torch.float32, copy=True))
            for layer in range(model.architecture.n_layers)
        }
    return {layer: Rows(rows.neurons, rows.values - (rows.values @ basis.T) @ basis) for layer, rows in chosen.items()}


def token_subspace(inputs: EditInputs) -> Float[Tensor, "rank d_model"]:
    """Orthonormal directions of the concept's tokens, the strongest first."""
    if not len(inputs.tokens):
        raise ConceptError("no token of the concept is known.", hint="Give it seeds that are common words.")
    rows = inputs.W_U[torch.from_numpy(inputs.tokens)] - inputs.W_U.mean(dim=0)
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    share = singular.square().cumsum(0) / singular.square().sum()
    leading: Tensor = directions[: int((share < ENERGY).sum()) + 1]
    return leading
