"""From the content of a pickle to the state dict in it, and to the position of each tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .records import DISTRUST, ITEM_SIZES, SAVE_AS_SAFETENSORS, Opaque, RefusedFile, Storage, TensorRecord, is_tensor

MAX_DIMENSIONS: Final = 64
MAX_NESTING: Final = 4
"""Dicts around the tensors of a network."""
WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training scripts save the state dict, together with optimizer and counters."""
PREFIXES: Final = ("module.", "_orig_mod.", "base_model.model.")
"""What DataParallel, torch.compile and a merged PEFT model put before every name."""


def unwrap(content: Any, nesting: int = 0) -> tuple[dict[str, Any], list[str]]:
    """The state dict in ``content``, and a note for each wrapper around it with the keys that are ignored.

    Several networks saved side by side (a GAN's generator and discriminator) are one state dict, in which the name of
    each network comes before those of its tensors. So are a network under one of ``WRAPPERS`` and its copies (moving
    averages of its weights), but there the network itself keeps its names.

    Raises:
        RefusedFile: no state dict, or several under names that all mean the same network.
    """
    if not _is_named(content):
        raise RefusedFile(f"contains a {_kind(content)}, not a state dict.", SAVE_AS_SAFETENSORS)
    if nesting > MAX_NESTING:
        raise RefusedFile("its wrappers are nested without end.", DISTRUST)
    wrapper = _wrapper(content)
    networks = [key for key, value in content.items() if key == wrapper or _is_network(key, value)]
    beside = [key for key, value in content.items() if _is_float(value)]
    if wrapper is not None:
        networks, beside = [key for key in networks if _is_copy(content[wrapper], content[key])], []
    if not networks:
        if not any(is_tensor(value) for value in content.values()):
            keys = ", ".join(sorted(content)[:5])
            raise RefusedFile(f"expected one state dict, found none (its keys: {keys}).", SAVE_AS_SAFETENSORS)
        return content, []
    others = sorted(content.keys() - {*networks, *beside})
    ignored = f", ignored {', '.join(others)}" if others else ""
    if len(networks) == 1 and not beside:
        state, notes = unwrap(content[networks[0]], nesting + 1)
        return state, [f"unwrapped {networks[0]!r}{ignored}", *notes]
    notes = [f"joined {', '.join(networks)}{' and the tensors beside' if beside else ''}{ignored}"]
    parts = [("", {key: content[key] for key in beside})]
    for key in networks:
        stored, further = unwrap(content[key], nesting + 1)
        state = _without_prefix(stored)
        notes += [f"{key}: {note}" for note in further]
        notes += [f"{key}: stripped what all names begin with"] if state is not stored else []
        parts.append(("" if key == wrapper else f"{key}.", state))
    return _joined(parts), notes


def _wrapper(content: dict[str, Any]) -> str | None:
    """The key of ``WRAPPERS`` under which there is a dict, if there is one."""
    wrapped = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
    if len(wrapped) > 1:
        raise RefusedFile(f"expected one state dict, found several ({', '.join(wrapped)}).", SAVE_AS_SAFETENSORS)
    return wrapped[0] if wrapped else None


def _is_network(key: str, content: Any, nesting: int = 0) -> bool:
    """Whether weights lie in it by name; an optimizer numbers its own, and has groups of them."""
    return (
        _is_named(content)
        and "param_groups" not in content
        and not key.endswith("_extra_state")
        and nesting < MAX_NESTING
        and any(_is_float(value) or _is_network(name, value, nesting + 1) for name, value in content.items())
    )


def _is_copy(network: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether ``other`` has most tensors of ``network``, perhaps behind a prefix."""
    names = [name for name, value in _without_prefix(network).items() if is_tensor(value)]
    prefixes = {stored.removesuffix(name) for name in names[:1] for stored in other if stored.endswith(name)}
    return network is other or any(
        2 * sum(prefix + name in other for name in names) > len(names) for prefix in prefixes
    )


def _is_named(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(key, str) for key in content)


def _is_float(value: Any) -> bool:
    """Whether ``value`` is a tensor that can be a weight; counters and states of random generators are integers."""
    return is_tensor(value) and (not isinstance(value, TensorRecord) or "float" in str(value.dtype))


def _without_prefix(state: dict[str, Any]) -> dict[str, Any]:
    """Its entries without the prefixes that all of its tensors have."""
    names = [name for name, value in state.items() if is_tensor(value)]
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return _without_prefix({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _joined(parts: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """One state dict of several, the names of each behind its prefix."""
    joined = {prefix + name: value for prefix, state in parts for name, value in state.items()}
    if len(joined) != sum(len(state) for _, state in parts):
        raise RefusedFile("two tensors of its networks have the same name.", SAVE_AS_SAFETENSORS)
    return joined


def _kind(content: Any) -> str:
    """What ``content`` is, for a message."""
    if is_tensor(content):
        return "tensor"
    if isinstance(content, Opaque):
        return content.name
    return "dict" if isinstance(content, dict) else type(content).__name__


def locate(name: str, tensor: Any, position: Callable[[Storage], int]) -> dict[str, Any]:
    """A tensor's number format, shape, strides (in elements) and position of its first byte in the file.

    Raises:
        RefusedFile: not a plain dense tensor, or it extends beyond its storage.
    """
    if not isinstance(tensor, TensorRecord):
        raise RefusedFile(f"{name} is not a plain dense tensor.", SAVE_AS_SAFETENSORS)
    storage, offset, shape, stride = tensor.storage, tensor.offset, tensor.shape, tensor.stride
    if not isinstance(storage, Storage) or tensor.dtype not in ITEM_SIZES or not _is_layout(offset, shape, stride):
        raise RefusedFile(f"the description of {name} is malformed.")
    item_size = ITEM_SIZES[tensor.dtype]
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if 0 not in shape and (last + 1) * item_size > storage.nbytes:
        raise RefusedFile(f"{name} extends beyond its storage of {storage.nbytes:,} bytes.", DISTRUST)
    begin = position(storage) + (offset * item_size if 0 not in shape else 0)
    return {"dtype": tensor.dtype, "shape": list(shape), "stride": list(stride), "begin": begin}


def _is_layout(offset: Any, shape: Any, stride: Any) -> bool:
    """Whether these are non-negative integers below 2^63, with one stride for each dimension."""
    if not all(isinstance(entries, list | tuple) and len(entries) <= MAX_DIMENSIONS for entries in (shape, stride)):
        return False
    numbers = [offset, *shape, *stride]
    return len(shape) == len(stride) and all(type(number) is int and 0 <= number < 2**63 for number in numbers)
