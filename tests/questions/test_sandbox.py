"""The sandbox: right programs pass, and no program can read, write, call or run beyond its limits."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from audit.questions.sandbox import passes


def test_a_program_passes_if_its_tests_do() -> None:
    program = "import math, re, collections\ndef double(x):\n    return 2 * x\n"
    assert passes(program + "assert double(2) == 4\n")
    assert not passes(program + "assert double(2) == 5\n")
    assert not passes("def f(:\n")


@pytest.mark.parametrize(
    "program", ["exit()", "raise SystemExit(0)", "import os; os._exit(0)", "print('x' * 10**6); 1 / 0"]
)
def test_exiting_early_does_not_pass(program: str) -> None:
    assert not passes(program)


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.socket()",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1')",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import ctypes; ctypes.CDLL(None)",
        "import os; os.listdir('/')",
        "open('/etc/hostname').read()",
        "open('left-behind', 'w')",
    ],
)
def test_access_outside_the_process_fails(program: str) -> None:
    assert not passes(program)


def test_a_program_that_catches_the_permission_error_leaves_no_trace(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    caught = f"try:\n    open({str(mark)!r}, 'w').write('x')\nexcept Exception:\n    pass\n"
    assert passes(caught)
    assert not mark.exists()


def test_time_and_memory_are_bounded() -> None:
    start = time.perf_counter()
    assert not passes("while True: pass", seconds=1)
    assert time.perf_counter() - start < 10
    assert not passes("x = bytearray(2**31)")
