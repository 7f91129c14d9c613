"""Bytes to tensors: weight files opened read-only, verified, and read one tensor at a time."""

from audit.checkpoint.checkpoint import Checkpoint
from audit.checkpoint.digests import TensorDigest, combine_digests, stored_tensor_digest, tensor_digest
from audit.checkpoint.opening import open_checkpoint
from audit.checkpoint.weight_file import Format, TensorInfo

__all__ = [
    "Checkpoint",
    "Format",
    "TensorDigest",
    "TensorInfo",
    "combine_digests",
    "open_checkpoint",
    "stored_tensor_digest",
    "tensor_digest",
]
