"""Mean ablation: each chosen value vector becomes the mean value vector of its layer."""

from __future__ import annotations

from collections.abc import Sequence

from audit.interventions import Change, EditInputs, Rows, stored_rows
from audit.models.ffn import value_rows
from audit.models.loading import RunningModel
from concepts.neuron import Neuron

TITLE = "Chosen value vectors set to their layer's mean"
DOSES = (0.25, 0.5, 0.75, 1.0)
DRAWS = 1
TRAINS = False


def target(model: RunningModel, neurons: Sequence[Neuron], inputs: EditInputs) -> Change:
    """The layer's mean value vector, for each of its chosen neurons."""
    change = {}
    for layer, rows in stored_rows(model, neurons).items():
        mean = value_rows(model, layer).float().mean(dim=0).cpu()
        change[layer] = Rows(rows.neurons, mean.expand_as(rows.values).clone())
    return change
