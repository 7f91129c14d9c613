"""Mean ablation: each chosen value vector becomes the mean of its layer's, so that it says what any neuron says."""

from __future__ import annotations

from collections.abc import Sequence

from audit.interventions import Change, EditInputs, Rows, stored_rows, value_rows
from audit.models.loading import RunningModel
from concepts.neuron import Neuron

TITLE = "Chosen value vectors set to their layer's mean"
DOSES = (0.25, 0.5, 0.75, 1.0)
DRAWS = 1
TRAINS = False


def target(model: RunningModel, vectors: Sequence[Neuron], inputs: EditInputs) -> Change:
    """The layer's mean value vector, for each of its chosen neurons."""
    found = {}
    for layer, rows in stored_rows(model, vectors).items():
        mean = value_rows(model, layer).float().mean(dim=0).cpu()
        found[layer] = Rows(rows.neurons, mean.expand_as(rows.values).clone())
    return found
