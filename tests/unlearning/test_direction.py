"""The knowledge direction, and repulsion from it: values of simple updates, and minima that are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import pytest
import torch

from audit.errors import AuditError, ModelError
from audit.models.loading import RunningModel
from audit.models.packing import Example, tokenize
from audit.models.scoring import score
from audit.unlearning.direction import along, reinforced, together
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from audit.unlearning.methods import knowledge_direction, task_vector
from audit.unlearning.methods.knowledge_direction import KnowledgeDirectionSettings, repulsion, squared_distance
from audit.unlearning.parameters import block_matrices
from tests.helpers import FORGET, RETAIN, Log, open_model
from tests.tiny import write_tiny

FACTS = [FORGET[0], Example("Question: Which city has canals?\nAnswer:", " Venice")]


@pytest.fixture
def taught(tmp_path: Path) -> RunningModel:
    model = open_model(write_tiny(tmp_path / "model"))
    for _ in fine_tune(model, [*FACTS, *RETAIN], [60], FineTuning(1e-2)):
        pass
    return model


def matrices(model: RunningModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in block_matrices(model).items()}


# ---- the measure


def test_a_task_vector_goes_straight_back_in_every_matrix(taught: RunningModel) -> None:
    settings = task_vector.TaskVectorSettings(steps=6, learning_rate=1e-3, scale=2.5)
    found = reinforced(taught, tokenize(taught.tokenizer, FACTS), settings, Log())
    task_vector.unlearn(taught, FACTS, RETAIN, settings)
    parts = {name: along(value - found.before[name], found.direction(name)) for name, value in matrices(taught).items()}
    assert len(parts) == 14
    for name, each in {**parts, "together": together(parts.values())}.items():
        assert each.cosine == pytest.approx(-1, abs=1e-4), name
        assert each.step == pytest.approx(-2.5, rel=1e-3), name


def test_a_random_update_has_no_part_along_the_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = 200
    for shape in ((20, 30), (300, 400)):
        d = torch.randn(shape, generator=generator) * 1e-4
        cosines = torch.tensor([along(torch.randn(shape, generator=generator), d).cosine for _ in range(draws)])
        spread = 1 / math.sqrt(math.prod(shape))
        assert cosines.std().item() == pytest.approx(spread, rel=0.2)
        assert abs(cosines.mean().item()) < 4 * spread / math.sqrt(draws)


def test_an_update_elsewhere_is_zero_and_nothing_has_no_cosine() -> None:
    d = torch.tensor([3.0, 0.0])
    elsewhere = along(torch.tensor([0.0, 2.0]), d)
    assert (elsewhere.cosine, elsewhere.step) == (0.0, 0.0)
    assert along(torch.ones(2), torch.zeros(2)).as_json() == {"cosine": None, "step": None}
    assert along(torch.zeros(2), d).as_json() == {"cosine": None, "step": 0.0}
    both = together([elsewhere, along(torch.tensor([4.0, 0.0]), torch.tensor([0.0, 0.0])), along(d, d)])
    assert both.cosine == pytest.approx(9 / math.sqrt((4 + 16 + 9) * 18))


# ---- repulsion


START, ADAPTED = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.5, -2.0, -0.5])
LENGTH = (ADAPTED - START).square().sum()


def term(theta: torch.Tensor, settings: KnowledgeDirectionSettings) -> torch.Tensor:
    away, home = (squared_distance([theta], [each]) / LENGTH for each in (ADAPTED, START))
    return repulsion(away, home, settings)


def gradient_at(theta: torch.Tensor, kind: Literal["el2", "il2", "nl2"]) -> torch.Tensor:
    theta = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(term(theta, KnowledgeDirectionSettings(repulsion=kind)), theta)
    return gradient


@pytest.mark.parametrize("beta", [0.2, 0.5, 0.8])
def test_the_negative_distance_is_least_beyond_the_beginning(beta: float) -> None:
    settings = KnowledgeDirectionSettings(repulsion="nl2", beta=beta)
    theta = START.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=50)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = term(theta, settings)
        torch.autograd.backward(value)
        return value

    for _ in range(5):
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(theta.detach(), (START - beta * ADAPTED) / (1 - beta), rtol=1e-3, atol=1e-3)


def test_every_repulsion_leads_away_and_has_its_limits() -> None:
    d = ADAPTED - START
    for kind in ("el2", "il2", "nl2"):
        assert gradient_at(START, kind) @ d > 0, kind  # a step against it goes away
    assert gradient_at(ADAPTED, "el2").norm() == 0
    assert gradient_at(START - 20 * d, "el2").norm() < 1e-6
    assert gradient_at(ADAPTED + 1e-4 * d, "il2").norm() > 1e6
    assert gradient_at(START - 20 * d, "nl2").norm() > gradient_at(START, "nl2").norm()


@pytest.mark.parametrize("wrong", [{"beta": 1.0}, {"beta": 1.5}, {"beta": 0.0}, {"alpha": 0.0}, {"adapt_steps": 0}])
def test_settings_out_of_range_are_an_error(wrong: dict[str, float]) -> None:
    with pytest.raises(AuditError, match=next(iter(wrong))):
        KnowledgeDirectionSettings(**wrong)  # type: ignore[arg-type]


# ---- the method


@pytest.mark.parametrize("kind", ["el2", "il2", "nl2"])
def test_the_answers_are_forgotten_and_the_update_goes_against_the_direction(
    kind: Literal["el2", "il2", "nl2"], taught: RunningModel
) -> None:
    before = [score(taught, examples).means.mean() for examples in (FACTS, RETAIN)]
    settings = KnowledgeDirectionSettings(repulsion=kind, adapt_steps=20, steps=25, learning_rate=6e-3, beta=0.9)
    record = knowledge_direction.unlearn(taught, FACTS, RETAIN, settings)
    forgotten, lost = (
        past - score(taught, examples).means.mean() for past, examples in zip(before, (FACTS, RETAIN), strict=True)
    )
    cosines = [each["cosine"] for each in record.changed["along_direction"].values()]
    assert len(cosines) == 14
    assert max(cosines) < -0.3
    assert forgotten > 2
    assert lost < 0.2
    distances = [row["distance"] for row in record.trajectory[20:]]
    assert distances[0] == pytest.approx(1.0, abs=1e-5)
    assert distances[-1] > 1.5
    assert [row["step"] for row in record.trajectory] == [*range(45)]


def test_a_first_stage_that_does_not_raise_the_answers_is_an_error(taught: RunningModel) -> None:
    before = matrices(taught)
    with pytest.raises(ModelError, match="did not make them likelier"):
        knowledge_direction.unlearn(
            taught, FACTS, RETAIN, KnowledgeDirectionSettings(adapt_steps=2, learning_rate=3.0, warmup=1)
        )
    assert all(torch.equal(value, before[name]) for name, value in matrices(taught).items())
