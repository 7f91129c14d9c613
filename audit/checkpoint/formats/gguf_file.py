"""GGUF files: tensors in float32, under their Hugging Face names and in their Hugging Face layout.

A GGUF and a safetensors file of one model therefore compare tensor by tensor. Names, and what GGUF stores differently,
are in the ``[gguf]`` table of the family's TOML file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from audit.architectures.family import Family, GgufNames, families, split_layer
from audit.checkpoint.formats.gguf_dequantise import check_quantisations, dequantise_rows, undo_rotary_interleaving
from audit.checkpoint.formats.gguf_header import GgufHeader, GgufTensor, read_header
from audit.checkpoint.weight_file import Format, TensorInfo
from audit.errors import CheckpointError


class GgufFile:
    """A verified GGUF file; its ``tensors`` are float32 and have Hugging Face names."""

    format: Format = "gguf"

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        family, names = gguf_family(header, path)
        self._stored: dict[str, GgufTensor] = {}
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
                self._rotary_heads[name] = _rotary_heads(stored, header, names.rotary[pattern], path)
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, stored.shape, torch.float32, path.name) for name, stored in self._stored.items()
        }
        kinds = {stored.quantisation for stored in header.tensors.values()}
        check_quantisations(kinds, path)
        self.notes: tuple[str, ...] = (f"dequantised {', '.join(sorted(kind.name for kind in kinds))} to float32",)

    def tensor(self, name: str) -> torch.Tensor:
        stored = self._stored[name]
        values = dequantise_rows(self.path, stored, 0, stored.n_rows).reshape(stored.shape)
        heads = self._rotary_heads.get(name)
        return values if heads is None else undo_rotary_interleaving(values, heads)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        stored = self._stored[name]
        if len(stored.shape) != 2 or name in self._rotary_heads:
            return self.tensor(name)[start:stop].clone()
        return dequantise_rows(self.path, stored, start, stop)


def gguf_family(header: GgufHeader, path: Path) -> tuple[Family, GgufNames]:
    """The family that the metadata names, and its names in GGUF.

    Raises:
        CheckpointError: the family is unknown or has no ``[gguf]`` table.
    """
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


def _rotary_heads(stored: GgufTensor, header: GgufHeader, key: str, path: Path) -> int:
    heads = header.metadata.get(key)
    if type(heads) is not int or heads < 1 or stored.shape[0] % (2 * heads):
        raise CheckpointError(
            f"{key} is {heads!r}, which does not divide {stored.name} {list(stored.shape)}.", where=str(path)
        )
    return heads
