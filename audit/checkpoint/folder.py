"""Which files of a folder are the model's weights, and whether the folder contains all of them.

transformers follows an index out of the folder, ignores shards that the index does not name, and chooses between two
sets of weights without a message. In each case the weights that are audited may not be the weights that run, so each is
refused here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit.checkpoint.formats import open_file
from audit.checkpoint.formats.adapter_config import ADAPTER_CONFIG
from audit.checkpoint.json_file import read_json
from audit.checkpoint.weight_file import WeightFile, sha256
from audit.errors import CheckpointError, listed

INDEX_LIMIT: Final = 50_000_000  # bytes; the index of a model of 10^5 tensors has about a fifth of it
SHARD: Final = re.compile(r"-\d+-of-\d+\.\w+$")
NOT_WEIGHTS: Final = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|adapter_model)\b.*|rng_state_\d+\..*"
)
"""Files of trainers and of PEFT that have a weight file's ending and contain no model."""


@dataclass(frozen=True)
class _Naming:
    """The file names under which transformers saves a model in one format.

    Attributes:
        single: the name of a file that contains the whole model, ``None`` if it has no fixed name.
        index: the name of the index of shards, ``None`` if the format has none.
    """

    endings: tuple[str, ...]
    single: str | None
    index: str | None


NAMINGS: Final = (
    _Naming((".safetensors",), "model.safetensors", "model.safetensors.index.json"),
    _Naming((".bin", ".pt", ".pth"), "pytorch_model.bin", "pytorch_model.bin.index.json"),
    _Naming((".gguf",), None, None),
)
"""In order of preference: of several in one folder, the first is used, and a note says what was ignored."""


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` contains an adapter and no complete model."""
    complete = any(_weight_names(folder, naming) or _index(folder, naming) for naming in NAMINGS)
    return (folder / ADAPTER_CONFIG).is_file() and not complete


def open_folder(folder: Path) -> tuple[tuple[WeightFile, ...], tuple[str, ...]]:
    """The folder's weight files, verified against its index if there is one, and notes on what was ignored.

    Raises:
        CheckpointError: no weights, or ambiguous, incomplete, or leading outside the folder.
    """
    present = {naming: _weight_names(folder, naming) for naming in NAMINGS}
    used = next((naming for naming in NAMINGS if present[naming] or _index(folder, naming)), None)
    if used is None:
        raise CheckpointError(
            "no weights in this folder.",
            where=str(folder),
            hint="Expected .safetensors, .bin, .pt, .pth or .gguf files.",
        )
    index = _index(folder, used)
    weight_map = _read_index(index) if index else {}
    names = sorted(set(weight_map.values())) if index else [_only_file(folder, used, present[used])]
    _check_names(folder, names, present[used], index)
    files = tuple(open_file(folder / name) for name in names)
    if index:
        _check_index(weight_map, files, index)
    ignored = [name for naming in NAMINGS for name in present[naming] if name not in names]
    if not ignored:
        return files, ()
    used_files, ignored_files = (", ".join(_with_digest(folder / name) for name in group) for group in (names, ignored))
    return files, (f"used {used_files}; ignored {ignored_files}",)


def _with_digest(path: Path) -> str:
    """A file's name, with the beginning of its digest and its size to identify it."""
    if not path.is_file():
        return f"{path.name} (not a regular file)"
    return f"{path.name} (SHA-256 {sha256(path)[:16]}, {path.stat().st_size:,} bytes)"


def _index(folder: Path, naming: _Naming) -> Path | None:
    return folder / naming.index if naming.index and (folder / naming.index).exists() else None


def _weight_names(folder: Path, naming: _Naming) -> list[str]:
    """Names of the weight files in one format. A broken link is included, so that opening it is an error."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.suffix in naming.endings and not NOT_WEIGHTS.fullmatch(entry.name) and not entry.is_dir()
    )


def _only_file(folder: Path, naming: _Naming, names: list[str]) -> str:
    """The one file that contains the whole model in a folder without an index."""
    shards = [name for name in names if SHARD.search(name)]
    if shards:
        raise CheckpointError(
            f"shards without their index {naming.index}: {listed(shards)}.",
            where=str(folder),
            hint="Add the index, or remove shards that do not belong to the model.",
        )
    if naming.single in names:
        return naming.single
    if len(names) == 1:
        return names[0]
    raise CheckpointError(
        f"ambiguous: {len(names)} weight files ({listed(names)}) and no index.",
        where=str(folder),
        hint="Pass the one to audit.",
    )


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> shard name, each a plain file name."""
    if not path.is_file():
        raise CheckpointError("not a regular file.", where=str(path), hint="Replace it by the index itself.")
    content = read_json(path, INDEX_LIMIT, "an index")
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("contains no weight_map from tensor names to files.", where=str(path))
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or shard in ("", ".", "..") or re.search(r"[/\\\0]", shard):
            raise CheckpointError(
                f"places {name} in {shard!r}, which is not a file name in this folder.",
                where=str(path),
                hint="Weights from another place would be audited under this folder's name; do not trust it.",
            )
    return weight_map


def _check_names(folder: Path, names: list[str], present: list[str], index: Path | None) -> None:
    """Raises CheckpointError if a weight file is missing or outside the folder, or if other weights are present."""
    absent = [name for name in names if not (folder / name).exists()]
    if absent:
        raise CheckpointError(
            f"{len(absent)} of {len(names)} weight files are absent: {listed(absent, 20)}.",
            where=str(folder),
            hint="Download them.",
        )
    for name in names:
        _check_inside(folder / name, folder)
    unused = [name for name in present if name not in names]
    unindexed = [name for name in unused if SHARD.search(name)]
    if unindexed:
        raise CheckpointError(
            f"shards that the index does not name: {listed(unindexed)}.",
            where=str(folder),
            hint="Correct the index, or remove them if they are not part of the model.",
        )
    singles = [naming.single for naming in NAMINGS if naming.single in unused]
    if index and singles:
        raise CheckpointError(
            f"ambiguous: both {singles[0]} and {index.name} with other files.",
            where=str(folder),
            hint=f"Pass {singles[0]} itself, or remove it.",
        )


def _check_inside(file: Path, folder: Path) -> None:
    """Raises CheckpointError for a link that leaves the folder, except into the blob store of the same hub cache."""
    target, root = file.resolve(), folder.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    if root not in target.parents and target.parent != blobs:
        raise CheckpointError(
            f"a link to {target}, outside the folder.", where=str(file), hint="Replace it by the file itself."
        )


def _check_index(weight_map: Mapping[str, str], files: tuple[WeightFile, ...], index: Path) -> None:
    """Raises CheckpointError unless each tensor is in the one shard that the index names for it."""
    shards: dict[str, str] = {}
    for file in files:
        for name in file.tensors:
            if name in shards:
                raise CheckpointError(f"{name} is in {shards[name]} and in {file.path.name}.", where=str(index))
            shards[name] = file.path.name
    wrong = [
        f"{name} (said to be in {shard}, {'is in ' + shards[name] if name in shards else 'in no shard'})"
        for name, shard in weight_map.items()
        if shards.get(name) != shard
    ]
    wrong += [f"{name} (in {shards[name]}, not in the index)" for name in shards if name not in weight_map]
    if wrong:
        raise CheckpointError(
            f"the index and its shards disagree on {len(wrong)} tensors: {listed(wrong)}.",
            where=str(index),
            hint="Download index and shards again, together.",
        )
