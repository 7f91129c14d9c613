"""Projection: removes the component of a value vector in the concept's token subspace.

The subspace is spanned by the leading directions of the concept tokens' rows of the head, minus the head's mean row: as
many directions as hold ``ENERGY`` of the rows' squared norm. The result affects these tokens only through the other
directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from audit.errors import ConceptError
from audit.interventions import Change, EditInputs, Rows, stored_rows
from audit.models.ffn import value_rows
from audit.models.loading import RunningModel
from concepts.neuron import Neuron

TITLE = "The concept's token subspace removed from value vectors"
DOSES = (0.25, 0.5, 0.75, 1.0)
DRAWS = 1
TRAINS = False
ENERGY = 0.9
"""Share of the token rows' squared norm that the subspace holds; the rest is mostly noise of single rows."""


def target(model: RunningModel, neurons: Sequence[Neuron], inputs: EditInputs) -> Change:
    """The chosen vectors, or with ``everywhere`` all of the model, without their component in the subspace.

    Raises:
        ConceptError: the concept has no tokens.
    """
    basis = token_subspace(inputs)
    chosen = stored_rows(model, neurons)
    if inputs.everywhere:
        d_mlp = model.architecture.d_mlp
        chosen = {
            layer: Rows(tuple(range(d_mlp)), value_rows(model, layer).to("cpu", torch.float32, copy=True))
            for layer in range(model.architecture.n_layers)
        }
    return {layer: Rows(rows.neurons, rows.values - (rows.values @ basis.T) @ basis) for layer, rows in chosen.items()}


def token_subspace(inputs: EditInputs) -> Float[Tensor, "rank d_model"]:
    """Orthonormal directions of the concept's tokens, strongest first."""
    if not len(inputs.tokens):
        raise ConceptError("no token of the concept is known.", hint="Give it seeds that are common words.")
    rows = inputs.W_U[torch.from_numpy(inputs.tokens)] - inputs.W_U.mean(dim=0)
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    share = singular.square().cumsum(0) / singular.square().sum()
    leading: Tensor = directions[: int((share < ENERGY).sum()) + 1]
    return leading
