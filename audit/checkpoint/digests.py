"""Digests of tensors and of whole checkpoints: equal digests mean equal bits, whatever file format stores them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from audit.checkpoint.checkpoint import Checkpoint
from audit.checkpoint.weight_file import TensorInfo


class TensorDigest:
    """SHA-256 over name, dtype, shape and bytes of one tensor, whose rows may arrive in several blocks."""

    def __init__(self, info: TensorInfo) -> None:
        self._hash = hashlib.sha256(f"{info.name}\0{info.dtype}\0{tuple(info.shape)}\0".encode())

    def update(self, rows: torch.Tensor) -> None:
        """Add the next rows, or the whole tensor."""
        self._hash.update(rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def digest(self) -> bytes:
        return self._hash.digest()


def tensor_digest(name: str, tensor: torch.Tensor) -> bytes:
    """The digest of a tensor in memory."""
    digest = TensorDigest(TensorInfo(name, tuple(tensor.shape), tensor.dtype, ""))
    digest.update(tensor)
    return digest.digest()


def stored_tensor_digest(checkpoint: Checkpoint, name: str, max_elements: int) -> bytes:
    """The digest of a tensor on disk, read in blocks of rows; ``max_elements`` limits a block as in ``row_blocks``."""
    digest = TensorDigest(checkpoint.tensors[name])
    for block in checkpoint.blocks(name, max_elements):
        digest.update(block)
    return digest.digest()


def combine_digests(digests: Iterable[tuple[str, bytes]]) -> str:
    """One hex digest over (tensor name, tensor digest) pairs; their order does not matter."""
    combined = hashlib.sha256()
    for name, digest in sorted(digests):
        combined.update(f"{name}\0".encode() + digest)
    return combined.hexdigest()
