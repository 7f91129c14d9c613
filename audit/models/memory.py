"""Freed memory is kept for the next tensor while small models run, where the C library allows it (glibc).

By default glibc gives a large tensor back to the system as soon as it is freed, and the system clears every page of the
next one before its first use. Gradients and activations have the same sizes in every step, so that is repeated for
gigabytes: a training step of SmolLM2 takes a tenth longer.

Kept memory may fall into pieces that are too small for the next tensor. That is harmless for a small model. For a large
one memory matters more than time, so it is given back as by default.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

SMALL: Final = 2**30
"""Bytes of the parameters of a model for which freed memory is kept."""
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Names of the settings in malloc.h."""
KEPT: Final = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}
GIVEN_BACK: Final = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}
"""The values that glibc's own adjustment reaches once a tensor of 32 MB was freed. Setting any of them ends that
adjustment, and the values that glibc starts with would give back every tensor above 128 kB."""


def set_up_memory(model_bytes: int) -> None:
    """Keep freed memory or give it back, by the size of the model that will run; nothing elsewhere than with glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for setting, value in (KEPT if model_bytes <= SMALL else GIVEN_BACK).items():
            mallopt(setting, value)
