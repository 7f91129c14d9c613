"""GGUF files: tensors dequantised to float32, under their Hugging Face names and in their orientation.

So a GGUF and a safetensors file of one model compare tensor by tensor. Names, and what GGUF stores differently, are in
the ``[gguf]`` table of the family's TOML file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES
from gguf.quants import dequantize

from audit.architectures.family import Family, GgufNames, families, split_layer
from audit.checkpoint.gguf_header import GgufHeader, StoredTensor, read_header
from audit.checkpoint.source import Format, TensorInfo, read_block
from audit.errors import CheckpointError

ROWS_AT_A_TIME: Final = 1024
"""Rows dequantised together: the package's dequantisation needs several times their size for itself."""


class GgufFile:
    """A verified GGUF file; ``tensors`` are by Hugging Face name and float32."""

    format: Format = "gguf"

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        family, names = _family(header, path)
        self._stored: dict[str, StoredTensor] = {}
        self._rotary_heads: dict[str, int] = {}
        for stored in header.tensors.values():
            if stored.name in names.ignore:
                continue
            pattern, layer = split_layer(stored.name)
            if pattern not in names.tensors:
                raise CheckpointError(f"tensor {stored.name} is not part of a {family.name} model.", where=str(path))
            name = names.tensors[pattern].format(layer=layer)
            self._stored[name] = stored
            if pattern in names.rotary:
                self._rotary_heads[name] = _heads(stored, header, names.rotary[pattern], path)
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, stored.shape, torch.float32, path.name) for name, stored in self._stored.items()
        }
        self.notes: tuple[str, ...] = (f"dequantised {', '.join(_quantisations(header, path))} to float32",)

    def tensor(self, name: str) -> torch.Tensor:
        stored = self._stored[name]
        values = self._dequantised(stored, 0, stored.n_rows).reshape(stored.shape)
        heads = self._rotary_heads.get(name)
        return values if heads is None else _uninterleaved(values, heads)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        stored = self._stored[name]
        if len(stored.shape) != 2 or name in self._rotary_heads:
            return self.tensor(name)[start:stop].clone()
        return self._dequantised(stored, start, stop)

    def _dequantised(self, stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
        """Some rows, ``[stop - start, shape[-1]]``, a few at a time; quantisation blocks never cross a row."""
        values = torch.empty(stop - start, stored.shape[-1])
        for first in range(start, stop, ROWS_AT_A_TIME):
            n_rows = min(ROWS_AT_A_TIME, stop - first)
            block = read_block(self.path, stored.begin + first * stored.row_bytes, n_rows * stored.row_bytes)
            part = dequantize(block.numpy().reshape(n_rows, stored.row_bytes), stored.quantisation)
            values[first - start : first - start + n_rows] = torch.from_numpy(part).reshape(n_rows, -1)
        return values


def gguf_config(path: Path) -> dict[str, Any]:
    """What config.json would say, from the file's metadata.

    Raises:
        CheckpointError: the metadata lacks a required entry, or scales rotary positions, which is not supported.
    """
    header = read_header(path)
    family, names = _family(header, path)
    scaling = header.metadata.get(f"{family.name}.rope.scaling.type", "none")
    if scaling != "none" or not names.ignore.isdisjoint(header.tensors):
        raise CheckpointError(
            "its rotary positions are scaled, which is not supported for GGUF.",
            where=str(path),
            hint="Pass the model as safetensors, or its config with --config.",
        )
    missing = [entry for entry in names.config.values() if entry not in header.metadata]
    if missing:
        raise CheckpointError(f"its metadata lacks {', '.join(missing)}.", where=str(path))
    metadata = {**names.config, **names.optional_config}
    by_role = {target: stored for stored, target in names.tensors.items()}
    return {
        "architectures": [names.model_class],
        "model_type": family.model_types[0],
        "tie_word_embeddings": by_role[family.by_role["head"].pattern] not in header.tensors,
        "vocab_size": header.tensors[by_role[family.by_role["embedding"].pattern]].shape[0],
        **{key: header.metadata[entry] for key, entry in metadata.items() if entry in header.metadata},
    }


def _family(header: GgufHeader, path: Path) -> tuple[Family, GgufNames]:
    stated = header.metadata.get("general.architecture")
    for family in families():
        if family.gguf is not None and family.name == stated:
            return family, family.gguf
    supported = ", ".join(family.name for family in families() if family.gguf)
    raise CheckpointError(
        f"GGUF of architecture {stated!r} (supported: {supported}).",
        where=str(path),
        hint="Pass the model as safetensors.",
    )


def _quantisations(header: GgufHeader, path: Path) -> list[str]:
    """Names of the number formats in the file, each proven to be one the package can dequantise."""
    kinds = {stored.quantisation for stored in header.tensors.values()}
    for kind in kinds:
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), kind)
        except NotImplementedError as error:
            raise CheckpointError(
                f"quantisation {kind.name} cannot be dequantised.",
                where=str(path),
                hint="Convert the model to another quantisation, or pass it as safetensors.",
            ) from error
    return sorted(kind.name for kind in kinds)


def _heads(stored: StoredTensor, header: GgufHeader, key: str, path: Path) -> int:
    heads = header.metadata.get(key)
    if type(heads) is not int or heads < 1 or stored.shape[0] % (2 * heads):
        raise CheckpointError(
            f"{key} is {heads!r}, which does not divide {stored.name} {list(stored.shape)}.", where=str(path)
        )
    return heads


def _uninterleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo GGUF's rotary order: within each head, rows a0 b0 a1 b1 ... become a0 a1 ... b0 b1 ..."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
