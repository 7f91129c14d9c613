"""Freed memory is kept for the next tensor, where the C library allows it (glibc).

By default glibc gives large tensors back to the system as soon as they are freed, and the system clears every page of
the next one before its first use. Gradients and activations are of the same sizes in every step, so this is repeated
for gigabytes; a training step of a small model takes up to a fifth longer.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Final

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Names of the parameters in malloc.h."""
NEVER: Final = 2**31 - 1
GROWTH: Final = 2**27
"""Bytes by which the heap grows at once."""


@cache
def keep_freed_memory() -> None:
    """Have this process keep freed memory until it ends; nothing elsewhere than with glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER), (TOP_PAD, GROWTH)):
            mallopt(parameter, value)
