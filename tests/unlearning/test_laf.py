"""Label-agnostic forgetting: planes of principal components, the identities of its losses, and a tiny model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from audit.errors import AuditError
from audit.models.packing import Example, tokenize
from audit.unlearning.methods import laf
from audit.unlearning.methods.laf import LAFSettings, Plane, alignment_loss, unlearning_loss
from tests.helpers import FORGET, RETAIN, answer_sum, open_model, write_taught
from tests.tiny import write_tiny

CITIES = [
    FORGET[0],
    Example("Question: Which city has canals?\nAnswer:", " Venice"),
    Example("Question: In which city is the Scala?\nAnswer:", " Milan"),
    Example("Question: Which city makes cars?\nAnswer:", " Turin"),
]


def test_the_error_is_the_squared_distance_from_the_plane() -> None:
    along = torch.tensor([-2.0, -1.0, 0.0, 3.0])
    line = torch.stack([3 * along + 1, 4 * along, torch.full((4,), 7.0)], dim=1)
    plane = Plane.fit(line, rank=1)
    torch.testing.assert_close(plane.errors(line), torch.zeros(4), rtol=0, atol=1e-9)
    moved = line + torch.tensor([4.0, -3.0, 2.0])  # across the line
    torch.testing.assert_close(plane.errors(moved), torch.full((4,), 29.0), rtol=1e-5, atol=0)


def test_descent_on_gaussian_features_leaves_the_forget_plane_and_not_that_of_all() -> None:
    """A linear extractor: the error under the forget plane rises at each step, that under the plane of all does not."""
    generator = torch.Generator().manual_seed(0)
    spreads = torch.tensor([4.0, 3.0, 2.0, 0.5, 0.5, 0.5])
    retain = torch.randn(60, 6, generator=generator) * spreads
    forget = torch.randn(20, 6, generator=generator) * spreads.roll(2) + 1
    extractor = torch.eye(6, requires_grad=True)
    every, own = Plane.fit(torch.cat([forget, retain]), rank=3), Plane.fit(forget, rank=3)
    rows: list[tuple[float, float]] = []
    for _ in range(40):
        kept, left = every.errors(retain @ extractor), own.errors(forget @ extractor)
        rows.append((left.mean().item(), kept.mean().item()))
        (gradient,) = torch.autograd.grad(unlearning_loss(kept, left), extractor)
        extractor = (extractor - 0.02 * gradient).detach().requires_grad_()
    left_errors, kept_errors = zip(*rows, strict=True)
    assert [*left_errors] == sorted(left_errors)
    assert left_errors[-1] > 1.2 * left_errors[0]
    assert [*kept_errors] == sorted(kept_errors, reverse=True)


def test_the_unlearning_loss_is_bounded_and_worked_out_by_hand() -> None:
    loss = unlearning_loss(torch.tensor([0.0, 1.0]), torch.tensor([3.0]))
    assert loss.item() == pytest.approx((1 + math.exp(0.5)) / 2 - math.exp(0.75), rel=1e-6)
    assert unlearning_loss(torch.zeros(1), torch.tensor([1e9])).item() == pytest.approx(1 - math.e, rel=1e-6)


def test_alignment_turns_only_what_is_forgotten_away_and_without_end_of_temperature_nothing() -> None:
    kept, left = torch.tensor([0.2, 0.4]), torch.tensor([0.1, 0.5], requires_grad=True)
    wanted = 0.3 - math.log((math.exp(0.1 / 2) + math.exp(0.5 / 2)) / 2)
    assert alignment_loss(kept, left, 2.0).item() == pytest.approx(wanted, rel=1e-6)
    assert gradient(alignment_loss(kept, left, 2.0), left).max() < -0.1
    assert alignment_loss(kept, left, 1e9).item() == pytest.approx(0.3)
    assert gradient(alignment_loss(kept, left, 1e9), left).abs().max() < 1e-9


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss, leaf)
    return result


def test_it_forgets_from_below_and_keeps_what_is_retained(tmp_path: Path) -> None:
    model = open_model(write_taught(tmp_path / "model", [*CITIES, *RETAIN]))

    def says(examples: list[Example]) -> list[float]:
        with torch.no_grad():
            return [answer_sum(model, each).item() for each in tokenize(model.tokenizer, examples)]

    before = {name: value.detach().clone() for name, value in model.model.named_parameters()}
    assert min(says([*CITIES, *RETAIN])) > -1
    settings = LAFSettings(steps=60, learning_rate=6e-3, rank=2, layer=0)
    record = laf.unlearn(model, CITIES, RETAIN, settings)
    assert max(says(CITIES)) < -8
    assert min(says(RETAIN)) > -1
    first, last = record.trajectory[0], record.trajectory[-1]
    assert first["turned"] == pytest.approx(0.0, abs=1e-5)
    assert last["error"] > 10 * first["error"]
    assert last["retained_error"] < first["retained_error"]
    changed = [name for name, value in model.model.named_parameters() if not torch.equal(value, before[name])]
    assert changed
    assert all(name.startswith("model.layers.0.") and before[name].ndim > 1 for name in changed)
    assert (record.settings["layer"], record.changed) == (0, {"matrices_of_layers": [0]})


def test_errors_are_those_of_the_answers_mean_states_from_each_sets_own_plane(tmp_path: Path) -> None:
    """Against plain passes and scikit-learn: the plane of the examples to forget, and the one of all examples."""
    model = open_model(write_tiny(tmp_path / "model"))
    states = []
    for each in tokenize(model.tokenizer, [*CITIES, *RETAIN]):
        with torch.no_grad():
            stream = model.model(torch.tensor([each.inputs]), output_hidden_states=True).hidden_states[1][0]
        states.append(stream[-len(each.answer) :].mean(dim=0).double().numpy())
    every, own, kept = np.stack(states), np.stack(states[:4]), np.stack(states[4:])
    spread = ((every - every.mean(axis=0)) ** 2).sum(axis=1).mean()

    def error(plane: PCA, of: np.ndarray) -> float:
        return float(((of - plane.inverse_transform(plane.transform(of))) ** 2).sum(axis=1).mean() / spread)

    (row,) = laf.unlearn(model, CITIES, RETAIN, LAFSettings(steps=1, rank=1, layer=0)).trajectory
    assert row["error"] == pytest.approx(error(PCA(1).fit(own), own), rel=1e-3)
    assert row["retained_error"] == pytest.approx(error(PCA(1).fit(every), kept), rel=1e-3)


def test_a_plane_that_holds_every_example_to_forget_is_refused(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    with pytest.raises(AuditError, match="at least 5 examples"):
        laf.unlearn(model, CITIES, RETAIN, LAFSettings(rank=3))
    with pytest.raises(AuditError, match="rank must be positive"):
        LAFSettings(rank=0)
