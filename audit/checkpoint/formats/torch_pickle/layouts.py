"""The two layouts of a torch file: a zip archive, and the sequence of pickles and numbers before torch 1.6."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, Final, NamedTuple

from .records import DISTRUST, SAVE_AS_SAFETENSORS, RefusedFile, Storage
from .unpickler import RecordUnpickler

ARCHIVE_MAGIC: Final = b"PK\x03\x04"
LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
LEGACY_VERSION: Final = 1001
PICKLE_LIMIT: Final = 100_000_000  # bytes, as for a safetensors header; a model of 10^5 tensors has a quarter of it


class FileContent(NamedTuple):
    """The content of the file's pickle, and a function from a storage to the position of its first byte."""

    content: Any
    position: Callable[[Storage], int]


def read_archive(stream: BinaryIO, size: int) -> FileContent:
    """The content of a zip archive of ``size`` bytes whose members are uncompressed."""
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise RefusedFile("the archive's end is missing or damaged: an incomplete download?") from error
    members = {member.filename: member for member in archive.infolist()}
    root = _check_members(archive.infolist(), size)
    pickled = members[f"{root}/data.pkl"]
    if pickled.file_size > PICKLE_LIMIT:
        raise RefusedFile(f"its pickle has {pickled.file_size:,} bytes (at most {PICKLE_LIMIT:,}).", DISTRUST)
    order = members.get(f"{root}/byteorder")
    if order is not None and archive.read(order) != b"little":
        raise RefusedFile("its numbers are big-endian, which is not supported.", SAVE_AS_SAFETENSORS)
    content = RecordUnpickler(io.BytesIO(archive.read(pickled))).read()

    def position(storage: Storage) -> int:
        member = members.get(f"{root}/data/{storage.key}")
        if member is None:
            raise RefusedFile(f"the archive lacks data/{storage.key}.")
        if member.file_size != storage.nbytes:
            raise RefusedFile(f"{member.filename} has {member.file_size:,} bytes, expected {storage.nbytes:,}.")
        return _member_position(stream, member)

    return FileContent(content, position)


def _check_members(members: list[zipfile.ZipInfo], size: int) -> str:
    """The name of the archive's one folder.

    Raises:
        RefusedFile: compressed members (380 KB can unpack to 400 MB), members that claim more bytes than the file has,
            or an archive that torch.save did not write.
    """
    roots = {member.filename.partition("/")[0] for member in members}
    names = {member.filename.partition("/")[2].lower() for member in members}
    if "constants.pkl" in names:
        raise RefusedFile("a TorchScript program, not a state dict.", SAVE_AS_SAFETENSORS)
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            problem = f"member {member.filename} is compressed or encrypted; torch.save stores members as they are."
            raise RefusedFile(problem, DISTRUST)
    total = sum(member.file_size for member in members)
    if total > size:
        raise RefusedFile(f"its members claim {total:,} bytes in a file of {size:,}.", DISTRUST)
    if "data.pkl" not in names or len(roots) != 1:
        raise RefusedFile("a zip archive, but not one that torch.save wrote.", DISTRUST)
    if len(names) != len(members):
        raise RefusedFile("two members of the archive have the same name.", DISTRUST)
    return roots.pop()


def _member_position(stream: BinaryIO, member: zipfile.ZipInfo) -> int:
    """The position of the member's first byte: after its own header, whose length the directory does not state."""
    stream.seek(member.header_offset)
    header = stream.read(30)
    if len(header) < 30 or not header.startswith(ARCHIVE_MAGIC):
        raise RefusedFile(f"the header of {member.filename} is damaged.")
    lengths: tuple[int, int] = struct.unpack("<26xHH", header)
    if stream.read(lengths[0]) != member.orig_filename.encode():
        raise RefusedFile(f"the archive and its directory disagree on the name of {member.filename}.", DISTRUST)
    return member.header_offset + len(header) + sum(lengths)


def read_legacy(stream: BinaryIO, size: int) -> FileContent:
    """The content of a file before torch 1.6: pickles of magic number, version, system, content and keys, then data."""
    magic, version, system = (RecordUnpickler(stream).read() for _ in range(3))
    if magic != LEGACY_MAGIC or version != LEGACY_VERSION or not isinstance(system, dict):
        raise RefusedFile("a pickle, but not one that torch.save wrote.", SAVE_AS_SAFETENSORS)
    if system.get("little_endian") is not True:
        raise RefusedFile("its numbers are big-endian, which is not supported.", SAVE_AS_SAFETENSORS)
    unpickler = RecordUnpickler(stream)
    content, keys = unpickler.read(), RecordUnpickler(stream).read()
    positions: dict[str, int] = {}
    for key in keys:
        storage = unpickler.storages[key]
        if struct.unpack("<q", stream.read(8)) != (storage.numel,):
            raise RefusedFile(f"the size of storage {key} is not the one in its pickle.")
        positions[key] = stream.tell()
        stream.seek(storage.nbytes, io.SEEK_CUR)
    if stream.tell() > size:
        raise RefusedFile(f"the file is {stream.tell() - size:,} bytes short: an incomplete download?")
    return FileContent(content, lambda storage: positions[storage.key])
