"""Dequantisation of GGUF blocks to float32, a limited number of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from jaxtyping import Float32
from torch import Tensor

from audit.checkpoint.formats.gguf_header import GgufTensor
from audit.checkpoint.weight_file import read_block
from audit.errors import CheckpointError

ROWS_AT_A_TIME: Final = 1024
"""Rows dequantised together; ``gguf.quants.dequantize`` needs several times their size as working memory."""


def dequantise_rows(path: Path, tensor: GgufTensor, start: int, stop: int) -> Float32[Tensor, "n_rows n_columns"]:
    """Rows ``start`` to ``stop`` of the tensor seen as a matrix ``[n_rows, shape[-1]]``, float32.

    A quantisation block never crosses a row, so that rows can be read on their own.
    """
    values = torch.empty(stop - start, tensor.shape[-1])
    for first in range(start, stop, ROWS_AT_A_TIME):
        n_rows = min(ROWS_AT_A_TIME, stop - first)
        blocks = read_block(path, tensor.begin + first * tensor.row_bytes, n_rows * tensor.row_bytes)
        rows = dequantize(blocks.numpy().reshape(n_rows, tensor.row_bytes), tensor.quantisation)
        values[first - start : first - start + n_rows] = torch.from_numpy(rows).reshape(n_rows, -1)
    return values


def undo_rotary_interleaving(rows: Float32[Tensor, "rows ..."], heads: int) -> Float32[Tensor, "rows ..."]:
    """Restore the row order of Hugging Face files: within each head, rows a0 b0 a1 b1 ... become a0 a1 ... b0 b1 ..."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def check_quantisations(kinds: Iterable[GGMLQuantizationType], path: Path) -> None:
    """Try each quantisation on one block of zeros.

    Raises:
        CheckpointError: the gguf package cannot dequantise one of them.
    """
    for kind in set(kinds):
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), kind)
        except NotImplementedError as error:
            raise CheckpointError(
                f"quantisation {kind.name} cannot be dequantised.",
                where=str(path),
                hint="Convert the model to another quantisation, or pass it as safetensors.",
            ) from error
