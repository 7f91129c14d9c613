"""Gaussian noise on the chosen value vectors, the ablation of Hong et al. (2024, arXiv 2406.11614, section 4).

The paper adds noise of standard deviation 0.1 to every entry (``raw``); its relative size depends on the model, whose
entries may be ten times smaller or larger. By default the standard deviation is the root mean square of the vector's
entries, so that at strength 1 noise and vector have the same norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from audit.interventions import Change, EditInputs, Rows, stored_rows
from audit.models.loading import RunningModel
from concepts.neuron import Neuron

TITLE = "Noise on the chosen value vectors"
DOSES = (0.25, 0.5, 1.0, 2.0, 4.0)
DRAWS = 3
TRAINS = False
RAW = 0.1
"""Standard deviation of the paper."""


def target(model: RunningModel, neurons: Sequence[Neuron], inputs: EditInputs) -> Change:
    """Each vector with its own noise; the same seed and neuron give the same noise."""
    return noisy(model, neurons, inputs.seed, inputs.raw)


def noisy(model: RunningModel, neurons: Sequence[Neuron], seed: int, raw: bool = False) -> Change:
    """``target`` from a seed alone."""
    change = {}
    for layer, rows in stored_rows(model, neurons).items():
        noise = torch.stack([_drawn(rows.values.shape[1], seed, layer, neuron) for neuron in rows.neurons])
        deviation = RAW if raw else rows.values.square().mean(dim=1, keepdim=True).sqrt()
        change[layer] = Rows(rows.neurons, rows.values + deviation * noise)
    return change


def _drawn(size: int, seed: int, layer: int, neuron: int) -> Float[Tensor, " size"]:
    """Standard normal noise of one neuron, independent of which others are chosen."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + layer) * 1_000_003 + neuron)
    return torch.randn(size, generator=generator)
