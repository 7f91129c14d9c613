"""Which neurons carry a skill: the choice of Neuron Adjust and of pruning."""

from __future__ import annotations

import numpy as np
import pytest

from audit.guards.activity import Activity
from audit.guards.methods import prune
from concepts import adjust
from concepts.adjust import Moments


def test_neurons_are_chosen_over_all_layers_and_by_sign_unless_absolute_is_set() -> None:
    forget = Moments(np.array([[0.0, 2.0], [-9.0, 0.0]]), np.ones((2, 2)))
    retain = Moments(np.zeros((2, 2)), np.ones((2, 2)))
    assert adjust.top_share(adjust.mean_difference(forget, retain), 0.25).tolist() == [[0, 1]]
    assert adjust.top_share(adjust.mean_difference(forget, retain, absolute=True), 0.25).tolist() == [[1, 0]]


def test_in_chosen_layers_the_share_is_of_their_neurons() -> None:
    scores = np.array([[9.0, 8.0, 7.0, 6.0], [1.0, 4.0, 3.0, 2.0], [0.0, 5.0, 0.0, 0.0]])
    assert adjust.top_share(scores, 0.25).tolist() == [[0, 0], [0, 1], [0, 2]]
    assert adjust.top_share(scores, 0.25, [2, 1]).tolist() == [[2, 1], [1, 1]]
    assert adjust.top_share(scores, 0.01, [1]).tolist() == [[1, 1]]  # at least one


@pytest.mark.parametrize(("share", "layers"), [(0.0, ()), (1.5, ()), (float("nan"), ()), (0.5, (3,)), (0.5, (-1,))])
def test_a_share_or_a_layer_that_does_not_exist_is_an_error(share: float, layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(0, 1\]|layers 0 to 2"):
        adjust.top_share(np.ones((3, 4)), share, layers)


def test_pruning_chooses_by_activity_in_proportion_whatever_its_sign() -> None:
    forget = activity(np.array([[-4.0, 4.0], [1.0, 2.0]]))
    retain = activity(np.array([[1.0, 2.0], [1.0, -2.0]]))
    guard = prune.choose(forget, retain, prune.PruneOptions(share=0.25))
    assert guard.neurons.tolist() == [[0, 0]]
    assert prune.choose(forget, retain, prune.PruneOptions((1,), 0.25)).neurons.tolist() == [[1, 0]]


def activity(keys: np.ndarray) -> Activity:
    """As if every token had these keys ``[n_layers, d_mlp]``."""
    moments = Moments(keys, np.ones_like(keys))
    return Activity(moments, moments, np.abs(keys), tokens=1)
