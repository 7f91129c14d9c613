"""Which files of a folder are the model, and whether they are all there.

transformers follows an index out of the folder, ignores shards the index forgets and prefers one of two sets of weights
without a word. Each of these means that other weights are audited than those that run, so each is refused here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit.checkpoint.safetensors import open_safetensors
from audit.checkpoint.source import WeightFile, detect, sha256, unique_keys
from audit.checkpoint.torchfile import open_torch
from audit.errors import CheckpointError

INDEX_LIMIT: Final = 50_000_000  # bytes; the index of a model of 10^5 tensors has about a fifth of it
SHARD: Final = re.compile(r"-\d+-of-\d+\.\w+$")
NOT_WEIGHTS: Final = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|adapter_model)\b.*|rng_state_\d+\..*"
)
"""What trainers and PEFT leave beside a model under a weight file's ending."""


@dataclass(frozen=True)
class _Kind:
    """One way of storing a model in a folder, by the names transformers gives."""

    endings: tuple[str, ...]
    single: str | None
    index: str | None


KINDS: Final = (
    _Kind((".safetensors",), "model.safetensors", "model.safetensors.index.json"),
    _Kind((".bin", ".pt", ".pth"), "pytorch_model.bin", "pytorch_model.bin.index.json"),
    _Kind((".gguf",), None, None),
)
"""In order of preference: where several are there, the first is used and a note says what was ignored."""


def open_file(path: Path) -> WeightFile:
    """Open one weight file by what it is, whatever it is called."""
    match detect(path):
        case "safetensors":
            return open_safetensors(path)
        case "torch":
            return open_torch(path)
        case "gguf":
            from audit.checkpoint.gguf import GgufFile  # the package behind it is needed for GGUF alone

            return GgufFile(path)


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds an adapter and no whole model."""
    whole = any(_weights(folder, kind) or _index(folder, kind) for kind in KINDS)
    return (folder / "adapter_config.json").is_file() and not whole


def open_folder(folder: Path) -> tuple[tuple[WeightFile, ...], tuple[str, ...]]:
    """The folder's weight files, verified against its index where there is one, and notes on what was ignored.

    Raises:
        CheckpointError: nothing there, ambiguous, incomplete, or reaching outside the folder.
    """
    found = {kind: _weights(folder, kind) for kind in KINDS}
    used = next((kind for kind in KINDS if found[kind] or _index(folder, kind)), None)
    if used is None:
        raise _nothing_there(folder)
    index = _index(folder, used)
    weight_map = _read_index(index) if index else {}
    files = sorted(set(weight_map.values())) if index else [_only_file(folder, used, found[used])]
    _check_files(folder, files, found[used], index)
    sources = tuple(open_file(folder / name) for name in files)
    if index:
        _check_index(weight_map, sources, index)
    ignored = [name for kind in KINDS for name in found[kind] if name not in files]
    if not ignored:
        return sources, ()
    used_files, ignored_files = (", ".join(_identified(folder / name) for name in names) for names in (files, ignored))
    return sources, (f"used {used_files}; ignored {ignored_files}",)


def _identified(path: Path) -> str:
    """A file's name with the beginning of its digest, so that the one used cannot be taken for another."""
    if not path.is_file():
        return f"{path.name} (not a regular file)"
    return f"{path.name} (SHA-256 {sha256(path)[:16]}, {path.stat().st_size:,} bytes)"


def _index(folder: Path, kind: _Kind) -> Path | None:
    return folder / kind.index if kind.index and (folder / kind.index).exists() else None


def _weights(folder: Path, kind: _Kind) -> list[str]:
    """Names of the weight files of one kind; a link to nowhere counts, so that it is missed rather than overlooked."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.suffix in kind.endings and not NOT_WEIGHTS.fullmatch(entry.name) and not entry.is_dir()
    )


def _nothing_there(folder: Path) -> CheckpointError:
    return CheckpointError(
        "no weights in this folder.", where=str(folder), hint="Expected .safetensors, .bin, .pt, .pth or .gguf files."
    )


def _only_file(folder: Path, kind: _Kind, names: list[str]) -> str:
    """The one file that holds the whole model, where there is no index."""
    shards = [name for name in names if SHARD.search(name)]
    if shards:
        raise CheckpointError(
            f"shards without their index {kind.index}: {_listed(shards)}.",
            where=str(folder),
            hint="Add the index, or remove shards that do not belong to the model.",
        )
    if kind.single in names:
        return kind.single
    if len(names) == 1:
        return names[0]
    raise CheckpointError(
        f"ambiguous: {len(names)} weight files ({_listed(names)}) and no index.",
        where=str(folder),
        hint="Pass the one to audit.",
    )


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> shard name, each a plain file name."""
    if not path.is_file():
        raise CheckpointError("not a regular file.", where=str(path), hint="Put the index itself there.")
    if path.stat().st_size > INDEX_LIMIT:
        raise CheckpointError(f"an index of {path.stat().st_size:,} bytes (at most {INDEX_LIMIT:,}).", where=str(path))
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not valid JSON ({error}).", where=str(path)) from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("holds no weight_map from tensor names to files.", where=str(path))
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or shard in ("", ".", "..") or re.search(r"[/\\\0]", shard):
            raise CheckpointError(
                f"places {name} in {shard!r}, which is not a file name in this folder.",
                where=str(path),
                hint="Weights from elsewhere would be audited under this folder's name; do not trust it.",
            )
    return weight_map


def _check_files(folder: Path, files: list[str], present: list[str], index: Path | None) -> None:
    """The files are there, inside the folder, and no other shard lies beside them."""
    absent = [name for name in files if not (folder / name).exists()]
    if absent:
        raise CheckpointError(
            f"{len(absent)} of {len(files)} weight files are absent: {_listed(absent, 20)}.",
            where=str(folder),
            hint="Download them.",
        )
    for name in files:
        _check_inside(folder / name, folder)
    left_over = [name for name in present if name not in files]
    orphans = [name for name in left_over if SHARD.search(name)]
    if orphans:
        raise CheckpointError(
            f"shards that the index does not name: {_listed(orphans)}.",
            where=str(folder),
            hint="Mend the index, or remove them if they are not part of the model.",
        )
    singles = [kind.single for kind in KINDS if kind.single in left_over]
    if index and singles:
        raise CheckpointError(
            f"ambiguous: both {singles[0]} and {index.name} with other files.",
            where=str(folder),
            hint=f"Pass {singles[0]} itself, or remove it.",
        )


def _check_inside(file: Path, folder: Path) -> None:
    """A link may lead to a place inside the folder or into the blob store of the hub cache it belongs to."""
    target, root = file.resolve(), folder.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    if root not in target.parents and target.parent != blobs:
        raise CheckpointError(
            f"a link to {target}, outside the folder.", where=str(file), hint="Put the file itself there."
        )


def _check_index(weight_map: Mapping[str, str], sources: tuple[WeightFile, ...], index: Path) -> None:
    """Every tensor lies in the one shard that the index names for it, and no tensor is unnamed."""
    holders: dict[str, str] = {}
    for source in sources:
        for name in source.tensors:
            if name in holders:
                raise CheckpointError(f"{name} is in {holders[name]} and in {source.path.name}.", where=str(index))
            holders[name] = source.path.name
    wrong = [
        f"{name} (said to be in {shard}, {'is in ' + holders[name] if name in holders else 'in no shard'})"
        for name, shard in weight_map.items()
        if holders.get(name) != shard
    ]
    wrong += [f"{name} (in {holders[name]}, not in the index)" for name in holders if name not in weight_map]
    if wrong:
        raise CheckpointError(
            f"the index and its shards disagree on {len(wrong)} tensors: {_listed(wrong)}.",
            where=str(index),
            hint="Download index and shards again, together.",
        )


def _listed(names: list[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
