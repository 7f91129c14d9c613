"""What a torch file holds and where each tensor's bytes lie, told without torch and without running what is in it.

    python -I -S torch_pickle.py FILE MEMORY SECONDS

prints one JSON document: ``{"tensors": {name: {"dtype", "shape", "stride", "begin"}}, "notes": [...]}`` or
``{"error": ..., "hint": ...}``. It is run as a process of its own under limits of memory and processor time, so it
imports nothing but the standard library.

A pickle is a program: it names callables, and the reader calls them. Here every name becomes a ``Name``, a label that
can be called but imports nothing and does nothing; those that rebuild tensors leave a record of their arguments. A file
that names anything else is refused. Records are tuples, so nothing in a pickle can change one.

Format: ``torch/serialization.py``, ``_save`` (a zip archive of stored members, since torch 1.6) and ``_legacy_save``.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

ARCHIVE_MAGIC: Final = b"PK\x03\x04"
LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
PICKLE_LIMIT: Final = 100_000_000  # bytes, as for a safetensors header; that of a model of 10^5 tensors has a quarter
MAX_DIMENSIONS: Final = 64

WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training scripts save the state dict beside optimizer and counters."""

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
SIZES: Final = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32", "uint32", "qint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool", "qint8", "quint8", "float8_e4m3fn", "float8_e5m2"), 1),
    "complex128": 16,
}
"""Number format -> bytes of an element."""

TENSORS: Final = "torch._utils._rebuild_"
VALUES: Final = frozenset(
    {
        *(f"torch.{dtype}" for dtype in SIZES),
        *(f"{TENSORS}{kind}" for kind in ("qtensor", "sparse_tensor", "nested_tensor", "meta_tensor_no_storage")),
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
"""Names that make values other than plain tensors, in state dicts and in the optimizer state beside them."""

SAVE_HINT: Final = "Have whoever trusts it load it and save model.state_dict() as safetensors."
AGAIN_HINT: Final = "Download or save it again."
DISTRUST_HINT: Final = "Do not trust this file; get the weights as safetensors."


class Refused(Exception):
    """Why the file is not read, and what to do."""

    def __init__(self, message: str, hint: str = AGAIN_HINT) -> None:
        super().__init__(message)
        self.hint = hint


# ---- what stands for the objects of a pickle


class Name(NamedTuple):
    """A callable or class that the pickle names. Nothing is imported."""

    full: str

    def __call__(self, *arguments: Any) -> Any:
        make = MAKERS.get(self.full)
        return make(*arguments) if make else Other(self.full)


class Other(NamedTuple):
    """Whatever ``name`` would have made: no plain tensor."""

    name: str


class Storage(NamedTuple):
    """A run of ``numel`` numbers in the file, under its key there."""

    dtype: str
    key: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * SIZES[self.dtype]


class Tensor(NamedTuple):
    """A view of a storage, as the pickle describes it; not yet checked."""

    storage: Any
    dtype: str
    offset: Any
    shape: Any
    stride: Any


class Entries(dict[Any, Any]):
    """An OrderedDict whose further attributes are dropped: state dicts carry their modules' versions there."""

    def __setstate__(self, state: Any) -> None:
        return


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    return Tensor(storage, storage.dtype, offset, shape, stride)


def _tensor_v2(storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, flags: Any = None) -> Any:
    """With ``flags`` the values are stored conjugated or negated."""
    return Other(f"{TENSORS}tensor_v2") if flags else _tensor(storage, offset, shape, stride)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, flags: Any = None
) -> Any:
    """The number format is named beside a storage of bytes."""
    return Other(f"{TENSORS}tensor_v3") if flags else Tensor(storage, dtype.full[6:], offset, shape, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _of_type(function: Name, _type: Any, arguments: Any, _state: Any) -> Any:
    return Name(function.full)(*arguments)


MAKERS: Final[Mapping[str, Callable[..., Any]]] = {
    "collections.OrderedDict": Entries,
    f"{TENSORS}tensor": _tensor,
    f"{TENSORS}tensor_v2": _tensor_v2,
    f"{TENSORS}tensor_v3": _tensor_v3,
    f"{TENSORS}parameter": _parameter,
    f"{TENSORS}parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}


class Reader(pickle.Unpickler):
    """Reads one pickle into records; ``foreign`` are the names in it that no state dict needs."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.foreign: list[str] = []
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Name:
        full = f"{module}.{name}"
        full = re.sub(r"^__builtin__\.", "builtins.", full)
        if full not in VALUES and full not in MAKERS and _stored_as(full) is None:
            self.foreign.append(full)
        return Name(full)

    def persistent_load(self, reference: Any) -> Any:
        match reference:
            case ("module", Name() as kind, *_):  # the class of a pickled model, in the older format
                return kind
            case ("storage", Name() as kind, str() as key, _, int() as numel, *view) if view in ([], [None]):
                storage = Storage(_stored_as(kind.full) or "", key, numel)
                if storage.dtype and numel >= 0 and self.storages.setdefault(key, storage) == storage:
                    return storage
        raise Refused("its pickle refers to its numbers in an unknown way.", SAVE_HINT)

    def read(self) -> Any:
        """The object, or a refusal that says what the pickle would have called."""
        try:
            content = self.load()
        except Exception:
            if not self.foreign:
                raise
        if self.foreign:
            raise _unsafe(list(dict.fromkeys(self.foreign)))
        return content


def _stored_as(full: str) -> str | None:
    """The number format of a storage class, ``None`` if ``full`` names none."""
    found = re.fullmatch(r"torch\.(?:cuda\.|storage\.)?(\w+Storage)", full)
    return STORAGES.get(found[1]) if found else None


def _unsafe(names: list[str]) -> Refused:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if any(name.startswith(("torch.nn.", "transformers.")) for name in names):
        return Refused(f"a pickled model ({shown}), not a state dict.", SAVE_HINT)
    return Refused(f"its pickle would call {shown}; it was not loaded.", SAVE_HINT)


# ---- the two ways a file is laid out


class Contents(NamedTuple):
    """What the file's pickle says, and the first byte of each storage's numbers."""

    content: Any
    begin: Callable[[Storage], int]


def read_archive(stream: BinaryIO, size: int) -> Contents:
    """A zip archive. Members must be stored as they are: 380 KB can otherwise unpack to 400 MB."""
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise Refused("the archive's end is missing or damaged: an incomplete download?") from error
    members = {member.filename: member for member in archive.infolist()}
    root = _check_members(archive.infolist(), size)
    pickled = members[f"{root}/data.pkl"]
    if pickled.file_size > PICKLE_LIMIT:
        raise Refused(f"its pickle has {pickled.file_size:,} bytes (at most {PICKLE_LIMIT:,}).", DISTRUST_HINT)
    order = members.get(f"{root}/byteorder")
    if order is not None and archive.read(order) != b"little":
        raise Refused("its numbers are big-endian, which is not supported.", SAVE_HINT)
    content = Reader(io.BytesIO(archive.read(pickled))).read()

    def begin(storage: Storage) -> int:
        member = members.get(f"{root}/data/{storage.key}")
        if member is None:
            raise Refused(f"the archive lacks data/{storage.key}.")
        if member.file_size != storage.nbytes:
            raise Refused(f"{member.filename} has {member.file_size:,} bytes, expected {storage.nbytes:,}.")
        return _first_byte(stream, member)

    return Contents(content, begin)


def _check_members(members: list[zipfile.ZipInfo], size: int) -> str:
    """The archive's one folder, if it holds what torch.save writes and unpacks to no more than its own size."""
    roots = {member.filename.partition("/")[0] for member in members}
    names = {member.filename.partition("/")[2].lower() for member in members}
    if "constants.pkl" in names:
        raise Refused("a TorchScript program, not a state dict.", SAVE_HINT)
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            what = f"member {member.filename} is compressed or encrypted; torch.save stores members as they are."
            raise Refused(what, DISTRUST_HINT)
    total = sum(member.file_size for member in members)
    if total > size:
        raise Refused(f"its members claim {total:,} bytes in a file of {size:,}.", DISTRUST_HINT)
    if "data.pkl" not in names or len(roots) != 1:
        raise Refused("a zip archive, but not one that torch.save wrote.", DISTRUST_HINT)
    if len(names) != len(members):
        raise Refused("two members of the archive have one name.", DISTRUST_HINT)
    return roots.pop()


def _first_byte(stream: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where the member's bytes begin: after its own header, whose length the directory does not tell."""
    stream.seek(member.header_offset)
    header = stream.read(30)
    if len(header) < 30 or not header.startswith(ARCHIVE_MAGIC):
        raise Refused(f"the header of {member.filename} is damaged.")
    lengths: tuple[int, int] = struct.unpack("<26xHH", header)
    if stream.read(lengths[0]) != member.orig_filename.encode():
        raise Refused(f"the archive and its directory disagree on the name of {member.filename}.", DISTRUST_HINT)
    return member.header_offset + len(header) + sum(lengths)


def read_legacy(stream: BinaryIO, size: int) -> Contents:
    """The format before torch 1.6: pickles of a magic number, version, system and content, keys, then the numbers."""
    magic, version, system = (Reader(stream).read() for _ in range(3))
    if magic != LEGACY_MAGIC or version != 1001 or not isinstance(system, dict):
        raise Refused("a pickle, but not one that torch.save wrote.", SAVE_HINT)
    if system.get("little_endian") is not True:
        raise Refused("its numbers are big-endian, which is not supported.", SAVE_HINT)
    reader = Reader(stream)
    content, keys = reader.read(), Reader(stream).read()
    places: dict[str, int] = {}
    for key in keys:
        storage = reader.storages[key]
        if struct.unpack("<q", stream.read(8)) != (storage.numel,):
            raise Refused(f"storage {key} has another size than its pickle says.")
        places[key] = stream.tell()
        stream.seek(storage.nbytes, io.SEEK_CUR)
    if stream.tell() > size:
        raise Refused(f"the file is {stream.tell() - size:,} bytes short: an incomplete download?")
    return Contents(content, lambda storage: places[storage.key])


# ---- from the pickle's content to a list of tensors


def unwrap(content: Any) -> tuple[dict[str, Any], list[str]]:
    """The state dict inside ``content``, and a note where it was wrapped; tensors beside a wrapper are not of it."""
    notes: list[str] = []
    while True:
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            kind = "dict" if isinstance(content, dict) else type(content).__name__
            raise Refused(f"holds a {kind}, not a state dict.", SAVE_HINT)
        if len(notes) > len(WRAPPERS):
            raise Refused("its wrappers are nested without end.", DISTRUST_HINT)
        wrapped = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
        if not wrapped and any(_is_tensor(value) for value in content.values()):
            return content, notes
        if len(wrapped) != 1:
            keys = ", ".join(sorted(content)[:5])
            found = f"several ({', '.join(wrapped)})" if wrapped else f"none (its keys: {keys})"
            raise Refused(f"expected one state dict, found {found}.", SAVE_HINT)
        others = sorted(content.keys() - {wrapped[0]})
        ignored = f", ignored {', '.join(others)}" if others else ""
        notes.append(f"unwrapped {wrapped[0]!r}{ignored}")
        content = content[wrapped[0]]


def _is_tensor(value: Any) -> bool:
    """A tensor, plain or of another kind."""
    return isinstance(value, Tensor) or (isinstance(value, Other) and value.name.startswith(TENSORS))


def place(name: str, tensor: Any, begin: Callable[[Storage], int]) -> dict[str, Any]:
    """A tensor's number format, shape, strides (in elements) and first byte in the file.

    Raises:
        Refused: not a plain dense tensor, or it reaches beyond its storage.
    """
    if not isinstance(tensor, Tensor):
        raise Refused(f"{name} is not a plain dense tensor.", SAVE_HINT)
    storage, offset, shape, stride = tensor.storage, tensor.offset, tensor.shape, tensor.stride
    if not isinstance(storage, Storage) or tensor.dtype not in SIZES or not _sound((offset,), shape, stride):
        raise Refused(f"the description of {name} is malformed.")
    size = SIZES[tensor.dtype]
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if 0 not in shape and (last + 1) * size > storage.nbytes:
        raise Refused(f"{name} reaches beyond its storage of {storage.nbytes:,} bytes.", DISTRUST_HINT)
    first = begin(storage) + (offset * size if 0 not in shape else 0)
    return {"dtype": tensor.dtype, "shape": list(shape), "stride": list(stride), "begin": first}


def _sound(*lists: Any) -> bool:
    """Sequences of whole numbers of at most 63 bits, shape and stride of one length."""
    if not all(isinstance(entries, list | tuple) and len(entries) <= MAX_DIMENSIONS for entries in lists):
        return False
    numbers = [number for entries in lists for number in entries]
    return len(lists[1]) == len(lists[2]) and all(type(number) is int and 0 <= number < 2**63 for number in numbers)


def inspect(path: Path) -> dict[str, Any]:
    """The document that is printed."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        archived = stream.read(4) == ARCHIVE_MAGIC
        stream.seek(0)
        content, begin = read_archive(stream, size) if archived else read_legacy(stream, size)
        state, notes = unwrap(content)
        others = sorted(name for name, value in state.items() if not _is_tensor(value))
        if others:
            notes.append(f"ignored entries that are no tensors: {', '.join(others)}")
        tensors = {name: place(name, value, begin) for name, value in state.items() if _is_tensor(value)}
    return {"tensors": tensors, "notes": notes}


# ---- the process


def limit(memory: int, seconds: int) -> list[str]:
    """Bound this process's memory (bytes) and processor time, forbid it files and processes; what could not be."""
    try:
        import resource
    except ImportError:
        return ["memory and time"]
    wanted = {"memory": ("RLIMIT_AS", memory), "time": ("RLIMIT_CPU", seconds)}
    wanted |= {"files": ("RLIMIT_FSIZE", 0), "processes": ("RLIMIT_NPROC", 0)}
    missing = []
    for what, (name, value) in wanted.items():
        try:
            kind = getattr(resource, name)
            _, hard = resource.getrlimit(kind)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
        except (AttributeError, OSError, ValueError):  # not on this system
            missing.append(what)
    return missing


def main(path: str, memory: str, seconds: str) -> None:
    missing = limit(int(memory), int(seconds))
    try:
        document = inspect(Path(path))
        if missing:
            document["notes"].append(f"this system did not limit {', '.join(missing)} while the pickle was read")
    except Refused as refused:
        document = {"error": str(refused), "hint": refused.hint}
    except MemoryError:
        document = {"error": f"its pickle needs more than {int(memory):,} bytes of memory.", "hint": DISTRUST_HINT}
    except Exception as error:  # a malformed pickle can fail in any way, but only here
        lines = str(error).splitlines()
        reason = (lines[0][:160] if lines else "").rstrip(".") or type(error).__name__
        document = {"error": f"cannot be read as a state dict ({reason}).", "hint": AGAIN_HINT}
    print(json.dumps(document))


if __name__ == "__main__":
    main(*sys.argv[1:])
