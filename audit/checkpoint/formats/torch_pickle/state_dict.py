"""From the content of a pickle to the state dict in it, and to the position of each tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .records import DISTRUST, ITEM_SIZES, SAVE_AS_SAFETENSORS, Opaque, RefusedFile, Storage, TensorRecord, is_tensor

MAX_DIMENSIONS: Final = 64
WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training scripts save the state dict, together with optimizer and counters."""


def unwrap(content: Any) -> tuple[dict[str, Any], list[str]]:
    """The state dict in ``content``, and a note for each wrapper around it with the keys that are ignored.

    Several networks saved side by side (a GAN's generator and discriminator) are one state dict, in which the name of
    each network comes before those of its tensors.

    Raises:
        RefusedFile: no state dict, or several under names that all mean the same network.
    """
    notes: list[str] = []
    while True:
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise RefusedFile(f"contains a {_kind(content)}, not a state dict.", SAVE_AS_SAFETENSORS)
        if len(notes) > len(WRAPPERS):
            raise RefusedFile("its wrappers are nested without end.", DISTRUST)
        wrapped = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
        if not wrapped and any(is_tensor(value) for value in content.values()):
            return content, notes
        found = wrapped or [key for key, value in content.items() if _is_state_dict(value)]
        if not found or len(wrapped) > 1:
            keys = ", ".join(sorted(content)[:5])
            actual = f"several ({', '.join(wrapped)})" if wrapped else f"none (its keys: {keys})"
            raise RefusedFile(f"expected one state dict, found {actual}.", SAVE_AS_SAFETENSORS)
        others = sorted(content.keys() - set(found))
        ignored = f", ignored {', '.join(others)}" if others else ""
        if len(found) > 1:
            return _joined({key: content[key] for key in found}), [*notes, f"joined {', '.join(found)}{ignored}"]
        notes.append(f"unwrapped {found[0]!r}{ignored}")
        content = content[found[0]]


def _is_state_dict(content: Any) -> bool:
    """Whether tensors lie in it by name; an optimizer numbers its own."""
    return (
        isinstance(content, dict)
        and all(isinstance(key, str) for key in content)
        and any(is_tensor(value) for value in content.values())
    )


def _joined(networks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One state dict; a network's name comes before those of its tensors."""
    joined = {f"{network}.{name}": value for network, state in networks.items() for name, value in state.items()}
    if len(joined) != sum(map(len, networks.values())):
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
