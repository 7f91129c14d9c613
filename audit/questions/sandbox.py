"""Runs a generated program with its tests in a separate, restricted process.

The process has an empty environment and working directory, limits on time, memory and file size, cannot create
processes, and on Linux, if the system permits it, has no network. A Python audit hook, which cannot be removed once
installed, also blocks sockets, processes, foreign functions, and all files outside the Python installation. Programs
run only with ``--run-code``: code written by a language model may do anything, and this is not a virtual machine.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

SECONDS: Final = 5
MEMORY: Final = 2**30
FORBIDDEN: Final = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill", "os.remove",
    "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate", "os.putenv",
    "os.listdir", "os.scandir", "shutil.", "ctypes.", "pty.", "signal.", "webbrowser.", "urllib.", "ftplib.", "glob.",
    "mmap.", "sqlite3.", "pathlib.Path.glob", "os.killpg", "os.setxattr", "gc.",
)  # fmt: skip


def passes(program: str, seconds: int = SECONDS, memory: int = MEMORY) -> bool:
    """Whether ``program`` runs to its end without an error, within the limits.

    The child process reports completion with a random token that the program does not know, so a program passes neither
    by calling ``exit()`` nor by printing.
    """
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-B", str(Path(__file__).resolve()), str(seconds), str(memory)],
                input=f"{token}\n{program}".encode("utf-8", "replace"),
                cwd=folder,
                env={},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=seconds + 5,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.stdout.decode("ascii", "replace") == token


def _isolate(seconds: int, memory: int) -> None:
    """Drop the resources that the program must not use."""
    import ctypes
    import resource

    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    if sys.platform.startswith("linux"):
        user_and_network = 0x10000000 | 0x40000000
        ctypes.CDLL(None).unshare(user_and_network)  # if the system denies it, only the audit hook applies
    try:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    except (OSError, ValueError):
        return


def _forbid() -> None:
    """Install an audit hook that raises on every operation outside the process."""
    own = tuple(str(Path(place).resolve()) for place in {sys.prefix, sys.base_prefix} if place)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, mode = arguments[0], arguments[1]
            inside = isinstance(path, str) and str(path).startswith(own)
            if not inside or (isinstance(mode, str) and set(mode) & set("wax+")):
                raise PermissionError("files are not accessible")
        elif event.startswith(FORBIDDEN):
            raise PermissionError(f"{event} is not permitted")

    sys.addaudithook(hook)


def main(seconds: str, memory: str) -> None:
    """Read a token and a program from standard input, run the program, and print the token if it raised no error."""
    leave, write = os._exit, os.write
    token, _, program = sys.stdin.buffer.read().decode("utf-8").partition("\n")
    answer, nothing = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    _isolate(int(seconds), int(memory))
    _forbid()
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})  # the purpose of this process
    except BaseException:  # any exception, SystemExit too, means that the program did not pass
        leave(1)
    write(answer, token.encode())
    leave(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
