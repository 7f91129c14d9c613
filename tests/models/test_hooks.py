"""Hooks are on inside the block, gone after it, and one that does not fire is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from audit.models.hooks import (
    adding_to_value_vectors,
    by_layer,
    find_module,
    on_inputs,
    on_outputs,
    recording_block_inputs,
    replaced_forward,
    starting_at,
)
from tests.helpers import open_model
from tests.tiny import DENSE, write_tiny

AUDIT = Path(__file__).resolve().parents[2] / "audit"


class Two(nn.Module):
    """Doubles, then adds one; ``skip`` leaves the second step out."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([nn.Identity(), nn.Identity()])

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        doubled: Tensor = self.steps[0](2 * x)
        return doubled if skip else self.steps[1](doubled + 1)


def n_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_inputs_and_outputs_are_seen_and_can_be_replaced() -> None:
    model, seen = Two(), []

    def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].item())

    def tenfold(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return 10 * output

    with on_inputs(model, {"steps.1": see}), on_outputs(model, {"steps.0": tenfold}):
        assert model(torch.tensor(3.0)).item() == 61
    assert seen == [61]
    assert model(torch.tensor(3.0)).item() == 7
    assert n_hooks(model) == 0


def test_the_root_is_the_empty_name_and_keyword_arguments_can_be_read() -> None:
    model, seen = Two(), []

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(kwargs)

    def end(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        return -output

    with on_inputs(model, {"": begin}, with_kwargs=True), on_outputs(model, {"": end}, with_kwargs=True):
        assert model(torch.tensor(3.0), skip=True).item() == -6
    assert seen == [{"skip": True}]


def test_a_wrong_name_is_an_error_that_names_it_and_leaves_no_hook() -> None:
    model = Two()
    with pytest.raises(LookupError, match=r"Two has no module 'steps\.2'"):
        on_inputs(model, by_layer("steps.{layer}", range(3), print))
    with pytest.raises(LookupError, match=r"'steps\.2'"), replaced_forward(model, dict.fromkeys(["steps.2"], print)):
        pass
    assert n_hooks(model) == 0
    assert find_module(model, "") is model


@pytest.mark.parametrize(("skip", "passes", "said"), [(True, 1, "0 times"), (False, 2, "2 times")])
def test_a_hook_that_does_not_fire_exactly_once_is_an_error(skip: bool, passes: int, said: str) -> None:
    model = Two()

    def run() -> None:
        with on_inputs(model, {"steps.1": lambda *_: None}, once=True):
            for _ in range(passes):
                model(torch.tensor(1.0), skip=skip)

    with pytest.raises(RuntimeError, match=rf"steps\.1' fired {said}"):
        run()
    assert n_hooks(model) == 0


def test_an_error_inside_the_block_is_not_hidden_by_the_count() -> None:
    model = Two()
    with pytest.raises(KeyError, match="inside"), on_inputs(model, {"steps.1": lambda *_: None}, once=True):
        raise KeyError("inside")
    assert n_hooks(model) == 0


def test_hooks_stay_on_until_they_are_closed() -> None:
    model = Two()
    on_outputs(model, {"": lambda module, args, output: 0 * output})  # not kept
    assert model(torch.tensor(3.0)).item() == 0
    model = Two()
    hooks = on_outputs(model, {"": lambda module, args, output: 0 * output})
    hooks.close()
    hooks.close()
    assert model(torch.tensor(3.0)).item() == 7


def test_a_replaced_forward_comes_back_as_it_was() -> None:
    model = Two()
    with replaced_forward(model, {"steps.0": lambda x: x + 100}):
        with replaced_forward(model, {"steps.0": lambda x: x + 200}):
            assert model(torch.tensor(3.0)).item() == 207
        assert model(torch.tensor(3.0)).item() == 107
    assert model(torch.tensor(3.0)).item() == 7
    assert "forward" not in vars(model.steps[0])


@pytest.mark.parametrize("family", DENSE)
def test_adding_to_value_vectors_is_writing_them(family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    d_model, neurons = model.architecture.d_model, [3, 7]
    delta = torch.randn(2, d_model, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[5, 9, 40, 77]])
    with torch.inference_mode():
        plain = model.model(ids).logits
        with adding_to_value_vectors(model, {1: (neurons, delta)}):
            added = model.model(ids).logits
        stored = model.model.get_parameter(model.architecture.names("W_out")[1])
        rows = stored if model.architecture.neuron_axis["W_out"] == 0 else stored.T
        rows[neurons] += delta
        written = model.model(ids).logits
    torch.testing.assert_close(added, written, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(added, plain, atol=1e-2)


@pytest.mark.parametrize("family", DENSE)
def test_starting_at_a_block_gives_what_the_whole_model_gives(family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    ids, others = torch.tensor([[5, 9, 40, 77]]), torch.tensor([[1, 2, 3, 4]])
    with torch.inference_mode():
        with recording_block_inputs(model, [0, 1]) as recorded:
            whole = model.model(ids, use_cache=False).logits
        for start in (0, 1):
            with starting_at(model, start, recorded):  # whatever tokens it is given
                torch.testing.assert_close(model.model(others, use_cache=False).logits, whole)
        assert not torch.allclose(model.model(others).logits, whole)
    assert n_hooks(model.model) == 0


def test_no_other_module_registers_hooks() -> None:
    users = [str(path.relative_to(AUDIT)) for path in AUDIT.rglob("*.py") if "register_forward" in path.read_text()]
    assert users == ["models/hooks.py"]
