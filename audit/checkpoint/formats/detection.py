"""The format of a weight file, decided from its first bytes."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from audit.checkpoint.weight_file import FileFormat
from audit.errors import CheckpointError

ZIP_MAGIC: Final = b"PK\x03\x04"
PICKLE_MAGIC: Final = b"\x80\x02"
"""What torch.save has written since 1.6, and what it wrote before: a bare pickle of protocol 2."""


def detect_format(path: Path) -> FileFormat:
    """The format of a weight file, from its first bytes and not from its name.

    Raises:
        CheckpointError: not a regular file, empty, a Git LFS pointer, a web page, or of an unknown format.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError("not a regular file.", where=str(path), hint="Pass a weight file or its folder.")
    with path.open("rb") as stream:
        head = stream.read(512)
    _refuse_failed_download(head, path)
    if head.startswith(b"GGUF"):
        return "gguf"
    if head[7:9] == b"\0{":  # end of the header length, then JSON. Tested first: a length of 640 begins like a pickle
        return "safetensors"
    if head.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        if path.suffix == ".safetensors":
            raise CheckpointError("a torch pickle under a safetensors name.", where=str(path), hint="Do not trust it.")
        return "torch"
    if path.suffix == ".safetensors":
        return "safetensors"
    raise CheckpointError(
        f"not a weight file: it begins with {head[:8]!r}.",
        where=str(path),
        hint="Supported are .safetensors, torch state dicts (.pt, .pth, .bin) and .gguf.",
    )


def _refuse_failed_download(head: bytes, path: Path) -> None:
    """Raises CheckpointError if the file is what an interrupted or redirected download leaves."""
    if not head:
        raise CheckpointError("the file is empty.", where=str(path), hint="Download or save it again.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "a Git LFS pointer, not the weights themselves.",
            where=str(path),
            hint="Run `git lfs pull` in its repository.",
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            "a web page, not weights: the download got an error page.",
            where=str(path),
            hint="Download it again.",
        )
