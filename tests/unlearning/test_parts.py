"""Parts of a model: only they change, a new adapter changes nothing, and afterwards the model is as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from audit.unlearning.parts import ALL, EMBEDDING, FASTER, LOW_RANK, Part, trained_part
from tests.helpers import open_tiny

EXAMPLES = [Example("Question: What is it?\nAnswer:", " Rome"), Example("Question: Who is it?\nAnswer:", " A dog")]
PROMPT = torch.tensor([[3, 5, 8, 13]])
PARTS: tuple[Part, ...] = (ALL, LOW_RANK, EMBEDDING)
FAMILIES = ("llama", "gpt2", "mixtral")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunningModel]:
    built: dict[str, RunningModel] = {}

    def model(family: str) -> RunningModel:
        if family not in built:
            built[family] = open_tiny(tmp_path_factory.mktemp("model") / "m", family)
        return built[family]

    return model


def logits(model: RunningModel) -> torch.Tensor:
    with torch.no_grad():
        said: torch.Tensor = model.model(PROMPT).logits
    return said


def train(model: RunningModel, part: Part, steps: int = 3) -> torch.Tensor:
    """What the model says after training, read inside the block."""
    with trained_part(model, part) as parameters:
        for _ in fine_tune(model, EXAMPLES, (steps,), FineTuning(1e-2), parameters):
            pass
        return logits(model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", PARTS)
def test_training_changes_the_model_only_inside(models: Callable[[str], RunningModel], family: str, part: Part) -> None:
    model = models(family)
    before, weights = logits(model), {name: value.clone() for name, value in model.model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.model.parameters()]
    assert not torch.equal(train(model, part), before)
    after = model.model.state_dict()
    assert list(after) == list(weights)
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert torch.equal(logits(model), before)
    assert [parameter.requires_grad for parameter in model.model.parameters()] == flags
    assert not hasattr(model.model, "peft_config")


@pytest.mark.parametrize("part", PARTS)
def test_an_error_inside_leaves_the_model_as_it_was(models: Callable[[str], RunningModel], part: Part) -> None:
    model = models("llama")
    before = logits(model)

    def interrupted() -> None:
        with trained_part(model, part) as parameters, torch.no_grad():
            for parameter in parameters:
                parameter.add_(1.0)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_not_trained_changes_nothing(models: Callable[[str], RunningModel], part: Part) -> None:
    model = models("llama")
    before = logits(model)
    with trained_part(model, part):
        assert torch.allclose(logits(model), before, atol=1e-6)


def test_adapters_are_small_and_the_same_for_a_seed(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    size = sum(parameter.numel() for parameter in model.model.parameters())
    with trained_part(model, LOW_RANK, seed=1) as first:
        copies = [parameter.clone() for parameter in first]
        assert 0 < sum(parameter.numel() for parameter in first) < size / 2
    with trained_part(model, LOW_RANK, seed=1) as again:
        assert all(torch.equal(one, other) for one, other in zip(copies, again, strict=True))
    with trained_part(model, LOW_RANK, seed=2) as other:
        assert not all(torch.equal(one, two) for one, two in zip(copies, other, strict=True))


def test_the_embedding_alone_is_trained(models: Callable[[str], RunningModel]) -> None:
    model = models("llama")
    with trained_part(model, EMBEDDING) as parameters:
        assert [id(parameter) for parameter in parameters] == [id(model.model.get_input_embeddings().weight)]


def test_every_part_has_a_learning_rate() -> None:
    assert set(FASTER) == set(PARTS)


def test_names_of_modules_stay(models: Callable[[str], RunningModel], tmp_path: Path) -> None:
    model = models("llama")
    before = [name for name, _ in model.model.named_modules()]
    train(model, LOW_RANK, 1)
    assert [name for name, _ in model.model.named_modules()] == before
