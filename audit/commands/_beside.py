"""Work in a second process while this one goes on, each on half of the cores.

Two models that run side by side on one core each finish sooner than one after the other on two
(``benchmarks/demo.py``): the small steps of writing and training do not fill two cores.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from queue import Empty
from typing import Any, Final

import psutil
import torch

from audit.errors import AuditError
from audit.progress import Progress

WAIT: Final = 0.5
"""Seconds between two looks at whether the second process has ended."""


@contextmanager
def beside(work: Callable[..., None], *args: Any, memory: int, progress: Progress) -> Iterator[None]:
    """Run ``work(*args, progress)`` in a second process while the block runs; wait for it at the block's end.

    Its progress is shown while waiting. With one core, or too little memory for both, it runs after the block, in this
    process. If the block fails, the second process is ended.

    Args:
        work: a function of a module; it and ``args`` are pickled.
        memory: what each of the two needs, in bytes.

    Raises:
        AuditError: what ``work`` raised; or the second process ended without a result, as for want of memory.
    """
    cores = torch.get_num_threads()
    if cores < 2 or psutil.virtual_memory().available < 2 * memory:
        yield
        work(*args, progress)
        return
    context = get_context("spawn")
    messages = context.Queue()
    process = context.Process(target=_run, args=(work, args, cores // 2, messages), daemon=True)
    torch.set_num_threads(cores // 2)
    try:
        process.start()
        yield
        _wait(process, messages, progress)
    finally:
        process.terminate()
        process.join()
        torch.set_num_threads(cores)


class _Sent:
    """Progress that is sent to the first process."""

    def __init__(self, messages: Any) -> None:
        self.messages = messages

    def step(self, text: str, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        self.messages.put((text, done, total, detail))


def _run(work: Callable[..., None], args: tuple[Any, ...], threads: int, messages: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    torch.set_num_threads(threads)
    try:
        work(*args, _Sent(messages))
    except AuditError as error:
        messages.put(error)


def _wait(process: Any, messages: Any, progress: Progress) -> None:
    """Show the latest step again and again until the process has ended.

    Raises:
        AuditError: see ``beside``.
    """
    while (running := process.is_alive()) or not messages.empty():
        steps = _waiting(messages)
        for error in (each for each in steps if isinstance(each, AuditError)):
            raise error
        if steps:
            progress.step(*steps[-1])
        if running:
            process.join(WAIT)
    if process.exitcode:
        raise AuditError(
            f"the process beside this one ended with code {process.exitcode}, possibly for want of memory.",
            hint="Set OMP_NUM_THREADS=1, so that one model is in memory at a time.",
        )


def _waiting(messages: Any) -> list[Any]:
    """The messages that have arrived."""
    arrived = []
    try:
        while True:
            arrived.append(messages.get_nowait())
    except Empty:
        return arrived
