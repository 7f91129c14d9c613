"""Integrated gradients on directions of the stream: exact for linear functions, complete for models."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from audit.errors import AuditError
from audit.models.hooks import by_layer, on_outputs
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.models.scoring import score
from audit.vectors.attribution import ConceptAttribution, concept_attribution, path_integral
from tests.helpers import FORGET, RETAIN, open_model
from tests.tiny import write_tiny

FAMILIES = ("llama", "gpt2", "gemma3", "gpt_neox")


def attributed(model: RunningModel, layer: int = 0, k: int = 3, **options: int) -> ConceptAttribution:
    directions = torch.randn(k, model.architecture.d_model, generator=torch.Generator().manual_seed(3))
    return concept_attribution(model, FORGET, RETAIN, layer, directions, **options)


# ---- the path


def test_a_linear_function_gives_each_weight_times_its_difference() -> None:
    weights, point, baseline = torch.tensor([2.0, 0.0, -0.5]), torch.tensor([1.0, 4.0, 3.0]), torch.tensor([0.5, 1, -1])
    found = path_integral(lambda c: c @ weights, point, baseline, 7)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, -2.0]))


def test_a_coordinate_that_is_not_read_gets_nothing_and_the_others_all() -> None:
    point, baseline = torch.tensor([0.5, 9.0, 1.5]), torch.tensor([-1.0, 2.0, 0.0])

    def function(c: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(c[0] * c[2]) + c[0].exp()

    found = path_integral(function, point, baseline, 50)
    assert found[1] == 0
    assert found.sum().item() == pytest.approx((function(point) - function(baseline)).item(), rel=0.01)


# ---- a model


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_contributions_add_up_to_the_effect_and_are_stable(family: str, layer: int, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    found = attributed(model, layer)
    assert abs(found.effect) > 0.01
    assert found.contributions.sum().item() == pytest.approx(found.effect, rel=0.01)
    finer = attributed(model, layer, points=100)
    torch.testing.assert_close(found.contributions, finer.contributions, rtol=0.01, atol=0.01 * abs(found.effect))


def test_the_effect_is_that_of_the_stream_with_its_coordinates_replaced(tmp_path: Path) -> None:
    """One direction, one question with an answer of one token, compared with a hook on a plain pass."""
    model = open_model(write_tiny(tmp_path / "model"))
    direction = torch.randn(1, model.architecture.d_model, generator=torch.Generator().manual_seed(3))
    question, other = Example("The city of Rome is in", " Italy"), Example("A puppy is a young", " dog")
    streams: list[torch.Tensor] = []

    def keep(layer: int, module: object, args: object, output: torch.Tensor) -> None:
        streams.append(output[0].clone())

    def project(layer: int, module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        places = slice(len(model.tokenizer(question.prompt)["input_ids"]) - 1, None)
        here = output[0, places] @ direction[0] / direction.square().sum()
        changed = output.clone()
        changed[0, places] += (mean - here)[:, None] * direction
        return changed

    template = model.architecture.block_module
    with on_outputs(model.model, by_layer(template, [0], keep)):
        score(model, [other])
    start = len(model.tokenizer(other.prompt)["input_ids"]) - 1
    mean = (streams[0][start:] @ direction[0] / direction.square().sum()).mean()
    before = score(model, [question]).means[0]
    with on_outputs(model.model, by_layer(template, [0], project)):
        after = score(model, [question]).means[0]
    found = concept_attribution(model, [question], [other], 0, direction)
    assert abs(before - after) > 0.01
    assert found.effect == pytest.approx(before - after, rel=1e-3)


@pytest.mark.parametrize("angle", [0.5, 0.1, 0.001])
def test_near_collinear_directions_report_their_condition_number(angle: float, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    directions = torch.zeros(2, model.architecture.d_model)
    directions[0, 0] = 3.0
    directions[1, 0], directions[1, 1] = 0.1 * math.cos(angle), 0.1 * math.sin(angle)
    found = concept_attribution(model, FORGET, RETAIN, 0, directions, points=1)
    assert found.condition == pytest.approx(1 / math.tan(angle / 2), rel=1e-2)


def test_dependent_directions_and_equal_coordinates_are_an_error(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    one = torch.ones(1, model.architecture.d_model)
    for dependent in (torch.cat([one, -2 * one]), torch.cat([one, 0 * one])):
        with pytest.raises(AuditError, match="linearly dependent"):
            concept_attribution(model, FORGET, RETAIN, 0, dependent)
    same = [Example("The city of Rome is in", "Q")]
    with pytest.raises(AuditError, match="coordinates of the others"):
        concept_attribution(model, same, same, 0, one)
