"""Control vectors: the nearest norms of the same layer, none used twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.errors import ConceptError
from audit.models.ffn import value_vectors
from audit.models.opening import open_model
from audit.vectors.controls import matched_controls
from concepts.neuron import Neuron
from tests.tiny import write_tiny


def test_controls_are_other_vectors_of_the_layer_with_the_nearest_norm(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "m"))
    neurons = [Neuron(0, 3, 1), Neuron(1, 5, -1), Neuron(0, 4, -1)]
    candidates = {Neuron(0, neuron) for neuron in range(10, 30)}
    controls = matched_controls(model, neurons, per_vector=2, candidates=candidates)
    assert [(place.layer, place.sign) for place in controls] == [(0, 1), (0, 1), (1, -1), (1, -1), (0, -1), (0, -1)]
    assert len(set(controls)) == 6
    assert not set(controls) & {*candidates, *neurons}
    norms = value_vectors(model.checkpoint, model.require_architecture(), 1).norm(dim=1)
    others = (norms - norms[5]).abs()
    others[5] = torch.inf
    assert {place.neuron for place in controls if place.layer == 1} == set(others.argsort()[:2].tolist())


def test_too_few_vectors_for_controls_is_an_error(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "m"))
    with pytest.raises(ConceptError, match="layer 0"):
        matched_controls(model, [Neuron(0, 3)], per_vector=40)
