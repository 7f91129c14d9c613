"""While a small model runs freed memory is kept: the next tensor needs no new pages."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from audit.models.memory import SMALL

SIZE = 2**26
PROGRAM = """
import ctypes, resource
from audit.models.memory import set_up_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = libc.memset.restype = ctypes.c_void_p

def new_pages(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
    libc.memset(block, 1, ctypes.c_size_t(size))
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for model in ({models}):
    set_up_memory(model)
new_pages({size})
print(new_pages({size}) * resource.getpagesize())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)
@pytest.mark.parametrize(("models", "is_kept"), [("0,", True), (f"{SMALL + 1},", False), (f"0, {SMALL + 1}", False)])
def test_the_next_tensor_takes_the_memory_of_the_last_where_the_model_is_small(models: str, is_kept: bool) -> None:
    program = [sys.executable, "-c", PROGRAM.format(models=models, size=SIZE)]
    cleared = int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
    assert (cleared < SIZE / 100) if is_kept else (cleared > SIZE / 2)
    program = [sys.executable, "-c", PROGRAM.format(models=models, size=2**23)]
    cleared = int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
    assert cleared < 2**23 / 100  # tensors below 32 MB are kept in any case
