"""Records in place of the objects that a pickle describes, and the number formats of a torch file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

STORAGES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "UntypedStorage": "uint8",
}
"""Storage class -> number format."""

ITEM_SIZES: Final = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32", "uint32", "qint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool", "qint8", "quint8", "float8_e4m3fn", "float8_e5m2"), 1),
    "complex128": 16,
}
"""Number format -> bytes of an element."""

REBUILD: Final = "torch._utils._rebuild_"
HARMLESS: Final = frozenset(
    {
        *(f"torch.{dtype}" for dtype in ITEM_SIZES),
        *(f"{REBUILD}{kind}" for kind in ("qtensor", "sparse_tensor", "nested_tensor", "meta_tensor_no_storage")),
        *(f"torch.per_{what}" for what in ("tensor_affine", "channel_affine", "channel_affine_float_qparams")),
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.set",
        "collections.Counter",
    }
)
"""Names that make values other than plain tensors, in state dicts and in the optimizer state saved with them."""

SAVE_AS_SAFETENSORS: Final = "Ask someone who trusts it to load it and to save model.state_dict() as safetensors."
DOWNLOAD_AGAIN: Final = "Download or save it again."
DISTRUST: Final = "Do not trust this file; get the weights as safetensors."


class RefusedFile(Exception):
    """The reason why a file is not read, and what to do about it."""

    def __init__(self, message: str, hint: str = DOWNLOAD_AGAIN) -> None:
        super().__init__(message)
        self.hint = hint


class Global(NamedTuple):
    """A callable or class that the pickle names. It is not imported."""

    name: str

    def __call__(self, *arguments: Any) -> Any:
        make = MAKERS.get(self.name)
        return make(*arguments) if make else Opaque(self.name)


class Opaque(NamedTuple):
    """The result of calling ``name``, of which nothing is read."""

    name: str


class Storage(NamedTuple):
    """``numel`` consecutive numbers in the file, under their key there."""

    dtype: str
    key: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_SIZES[self.dtype]


class TensorRecord(NamedTuple):
    """A view of a storage as the pickle describes it; ``locate`` checks it."""

    storage: Any
    dtype: str
    offset: Any
    shape: Any
    stride: Any


class PlainDict(dict[Any, Any]):
    """An OrderedDict without its attributes, in which state dicts keep the versions of their modules."""

    def __setstate__(self, state: Any) -> None:
        return


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a tensor, plain or of another kind (sparse, quantised, ...)."""
    return isinstance(value, TensorRecord) or (isinstance(value, Opaque) and value.name.startswith(REBUILD))


def storage_dtype(name: str) -> str | None:
    """The number format of a storage class, ``None`` if ``name`` is not a storage class."""
    match = re.fullmatch(r"torch\.(?:cuda\.|storage\.)?(\w+Storage)", name)
    return STORAGES.get(match[1]) if match else None


def is_allowed(name: str) -> bool:
    """Whether a state dict may name ``name``."""
    return name in HARMLESS or name in MAKERS or storage_dtype(name) is not None


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    return TensorRecord(storage, storage.dtype, offset, shape, stride)


def _tensor_v2(storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, flags: Any = None) -> Any:
    """With ``flags``, the values are stored conjugated or negated."""
    return Opaque(f"{REBUILD}tensor_v2") if flags else _tensor(storage, offset, shape, stride)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, flags: Any = None
) -> Any:
    """The storage has untyped bytes, and ``dtype`` names the number format."""
    if flags:
        return Opaque(f"{REBUILD}tensor_v3")
    return TensorRecord(storage, dtype.name.removeprefix("torch."), offset, shape, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _from_type(function: Global, _type: Any, arguments: Any, _state: Any) -> Any:
    return Global(function.name)(*arguments)


MAKERS: Final[Mapping[str, Callable[..., Any]]] = {
    "collections.OrderedDict": PlainDict,
    f"{REBUILD}tensor": _tensor,
    f"{REBUILD}tensor_v2": _tensor_v2,
    f"{REBUILD}tensor_v3": _tensor_v3,
    f"{REBUILD}parameter": _parameter,
    f"{REBUILD}parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}
"""Name in a pickle -> what makes its record."""
