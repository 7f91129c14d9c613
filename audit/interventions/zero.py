"""Zeroing: the chosen value vectors become zero. Needs neither training nor data."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from audit.interventions import Change, EditInputs, Rows, stored_rows
from audit.models.loading import RunningModel
from concepts.neuron import Neuron

TITLE = "Chosen value vectors set to zero"
DOSES = (0.25, 0.5, 0.75, 1.0)
DRAWS = 1
TRAINS = False


def target(model: RunningModel, neurons: Sequence[Neuron], inputs: EditInputs) -> Change:
    """Zeros."""
    return {
        layer: Rows(rows.neurons, torch.zeros_like(rows.values)) for layer, rows in stored_rows(model, neurons).items()
    }
