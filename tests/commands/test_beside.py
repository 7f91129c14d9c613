"""Work in a second process: its result, its progress and its errors reach this one, and it never outlives it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from audit.commands._beside import beside
from audit.errors import AuditError, ModelError
from audit.progress import SILENT, Progress


class Steps(list[tuple[str, int | None, int | None]]):
    def step(self, text: str, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        self.append((text, done, total))


def write_process(file: Path, progress: Progress) -> None:
    progress.step("Writing", 1, 1)
    file.write_text(f"{os.getpid()} {torch.get_num_threads()}")


def fail(progress: Progress) -> None:
    raise ModelError("the loss is nan.", where="model", hint="Lower the learning rate.")


def vanish(progress: Progress) -> None:
    os._exit(9)


def write_and_stay(file: Path, progress: Progress) -> None:
    write_process(file, progress)
    time.sleep(600)


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_cores")
def test_both_work_on_half_of_the_cores(tmp_path: Path) -> None:
    steps = Steps()
    with beside(write_process, tmp_path / "made", memory=0, progress=steps):
        assert torch.get_num_threads() == 1
    process, threads = (tmp_path / "made").read_text().split()
    assert int(process) != os.getpid()
    assert threads == "1"
    assert steps == [("Writing", 1, 1)]
    assert torch.get_num_threads() == 2


def test_with_one_core_it_works_after_the_block(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with beside(write_process, tmp_path / "made", memory=0, progress=SILENT):
            assert not (tmp_path / "made").exists()
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "made").read_text().startswith(str(os.getpid()))


@pytest.mark.usefixtures("two_cores")
def test_without_memory_for_both_it_works_after_the_block(tmp_path: Path) -> None:
    with beside(write_process, tmp_path / "made", memory=2**60, progress=SILENT):
        assert not (tmp_path / "made").exists()
        assert torch.get_num_threads() == 2
    assert (tmp_path / "made").read_text() == f"{os.getpid()} 2"


@pytest.mark.usefixtures("two_cores")
def test_its_errors_are_raised_here() -> None:
    with pytest.raises(ModelError, match="the loss is nan") as caught, beside(fail, memory=0, progress=SILENT):
        pass
    assert (caught.value.where, caught.value.hint) == ("model", "Lower the learning rate.")
    with (
        pytest.raises(AuditError, match=r"ended with code 9.*OMP_NUM_THREADS=1"),
        beside(vanish, memory=0, progress=SILENT),
    ):
        pass


def fail_beside(file: Path) -> None:
    with beside(write_and_stay, file, memory=0, progress=SILENT):
        while not file.exists():
            time.sleep(0.05)
        raise AuditError("disk full")


@pytest.mark.usefixtures("two_cores")
def test_an_error_of_the_block_ends_it(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(AuditError, match="disk full"):
        fail_beside(tmp_path / "made")
    assert time.monotonic() - begun < 300
    assert torch.get_num_threads() == 2
