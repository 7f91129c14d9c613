"""The one place that registers torch hooks and replaces modules' ``forward``; everything is undone at the end.

Modules are named as ``torch.nn.Module.named_modules`` names them, and a name that the model does not have is a
LookupError. ``on_inputs`` and ``on_outputs`` return an ``ExitStack``: the hooks are on at once, and come off at the end
of its ``with`` block or with ``close()``. With ``once=True`` each hook must fire exactly once in the block, so that a
module that transformers no longer calls is an error and not a missing layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from audit.models.loading import RunningModel

Hook = Callable[..., Any]
"""As torch calls it: ``hook(module, args)`` or ``hook(module, args, output)``; what it returns, unless ``None``, takes
the place of the inputs or of the output."""


def on_inputs(
    model: nn.Module, hooks: Mapping[str, Hook], *, once: bool = False, with_kwargs: bool = False
) -> ExitStack:
    """Call ``hooks[name](module, args)`` before each pass through the module ``name``.

    Args:
        once: raise at the end of the block if a hook did not fire exactly once.
        with_kwargs: call ``hooks[name](module, args, kwargs)``.

    Raises:
        LookupError: the model has no module of that name.
        RuntimeError: see ``once``.
    """
    return _register(model, hooks, partial(nn.Module.register_forward_pre_hook, with_kwargs=with_kwargs), once)


def on_outputs(
    model: nn.Module, hooks: Mapping[str, Hook], *, once: bool = False, with_kwargs: bool = False
) -> ExitStack:
    """Call ``hooks[name](module, args, output)`` after each pass through the module ``name``; see ``on_inputs``.

    Args:
        with_kwargs: call ``hooks[name](module, args, kwargs, output)``.
    """
    return _register(model, hooks, partial(nn.Module.register_forward_hook, with_kwargs=with_kwargs), once)


def by_layer(template: str, layers: Collection[int], hook: Hook) -> dict[str, Hook]:
    """The same hook at the module ``template`` of several layers, called with the layer as its first argument.

    Args:
        template: module name with ``{layer}``, as in ``Architecture.out_module``.
    """
    return {template.format(layer=layer): partial(hook, layer) for layer in layers}


def find_module(model: nn.Module, name: str) -> nn.Module:
    """The module called ``name``; ``""`` is the model itself. Raises LookupError where there is none."""
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise LookupError(f"{type(model).__name__} has no module {name!r}") from error


def embedding_name(model: nn.Module) -> str:
    """Name of the module that embeds the tokens of a transformers model."""
    embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    name: str = next(name for name, module in model.named_modules() if module is embedding)
    return name


@contextmanager
def replaced_forward(model: nn.Module, forwards: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Run ``forwards[name]`` in place of the ``forward`` of the module ``name``; hooks on it still fire.

    Raises:
        LookupError: the model has no module of that name.
    """
    with ExitStack() as stack:
        for name, forward in forwards.items():
            module = find_module(model, name)
            if "forward" in vars(module):
                stack.callback(setattr, module, "forward", module.forward)
            else:
                stack.callback(delattr, module, "forward")  # the class's own method shows again
            module.forward = forward
        yield


# ---- running a model whose value vectors are slightly others, or a part of a model


Delta = tuple[Sequence[int], Float[Tensor, "_ d_model"]]
"""Neurons of one layer, and what is added to the value vector of each."""


def adding_to_value_vectors(model: RunningModel, deltas: Mapping[int, Delta]) -> ExitStack:
    """Run as if ``deltas[layer]`` were added to that layer's value vectors, which stay as they are.

    Their part of the FFN's output is summed in float32. Gradients reach the deltas.
    """

    def add(layer: int, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        neurons, delta = deltas[layer]
        added = args[0][..., list(neurons)].float() @ delta.to(output.device, torch.float32)
        return output + added.to(output.dtype)

    return on_outputs(model.model, by_layer(model.architecture.out_module, deltas, add))


def without_directions(model: RunningModel, directions: Mapping[int, Float[Tensor, " d_model"]]) -> ExitStack:
    """Run with ``h - (h . d) d`` as the output of the block of each layer, at every position; ``d`` has length 1."""

    def remove(layer: int, module: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        direction = directions[layer].to(hidden.device, torch.float32)
        along = (hidden.float() @ direction)[..., None] * direction
        kept = (hidden.float() - along).to(hidden.dtype)
        return (kept, *output[1:]) if isinstance(output, tuple) else kept

    return on_outputs(model.model, by_layer(model.architecture.block_module, directions, remove))


def replacing_embeddings(
    model: RunningModel, ids: Sequence[int], embedded: Float[Tensor, "n_tokens d_model"]
) -> ExitStack:
    """Run with ``embedded[i]`` as the output of the embedding for token ``ids[i]``; a tied head stays as it is."""
    place = torch.full((model.architecture.d_vocab,), -1)
    place[list(ids)] = torch.arange(len(ids))

    def replace(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        places = place.to(output.device)[args[0]]
        replaced = output.clone()
        replaced[places >= 0] = embedded.to(output)[places[places >= 0]]
        return replaced

    return on_outputs(model.model, {embedding_name(model.model): replace})


@dataclass
class BlockInputs:
    """What entered some blocks during one pass.

    Attributes:
        entering: layer -> residual stream before its block ``[batch, length, d_model]``; the layer after the last block
            stands for the final norm.
        tuples: whether this family's blocks return a tuple, with the residual stream first.
    """

    entering: dict[int, Tensor] = field(default_factory=dict)
    tuples: bool = False


@contextmanager
def recording_block_inputs(model: RunningModel, layers: Collection[int]) -> Iterator[BlockInputs]:
    """Record what enters the blocks of ``layers`` (or the final norm) in the one pass that runs inside."""
    recorded = BlockInputs()

    def record(layer: int, module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        recorded.entering[layer] = args[0]
        recorded.tuples |= isinstance(output, tuple)

    hooks = {_reader_of(model, layer): partial(record, layer) for layer in layers}
    with on_outputs(model.model, hooks, once=True):
        yield recorded


@contextmanager
def starting_at(model: RunningModel, start: int, recorded: BlockInputs) -> Iterator[None]:
    """Run the blocks from ``start`` upwards alone, on what entered ``start`` when it was recorded.

    After the last block there are only the final norm and the head. The blocks below pass on what they are given. Right
    only while nothing below ``start`` has changed.
    """
    block = model.architecture.block_module

    def pass_on(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden, None) if recorded.tuples else hidden

    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (recorded.entering[start], *args[1:])

    with (
        replaced_forward(model.model, {block.format(layer=layer): pass_on for layer in range(start)}),
        on_inputs(model.model, {_reader_of(model, start): enter}, once=True),
    ):
        yield


def _reader_of(model: RunningModel, layer: int) -> str:
    """Name of the module that reads the residual stream before block ``layer``, or after the last block."""
    architecture = model.architecture
    if layer == architecture.n_layers:
        return architecture.final_norm_module
    return architecture.block_module.format(layer=layer)


def _register(
    model: nn.Module, hooks: Mapping[str, Hook], register: Callable[[nn.Module, Hook], RemovableHandle], once: bool
) -> ExitStack:
    fired = dict.fromkeys(hooks, 0)

    def counting(name: str, *args: Any) -> Any:
        fired[name] += 1
        return hooks[name](*args)

    def check(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        wrong = next((name for name, times in fired.items() if times != 1), None)
        if kind is None and wrong is not None:
            raise RuntimeError(f"the hook on module {wrong!r} fired {fired[wrong]} times in one pass, not once")

    with ExitStack() as stack:
        if once:
            stack.push(check)
        for name in hooks:
            stack.callback(register(find_module(model, name), partial(counting, name)).remove)
        return stack.pop_all()
