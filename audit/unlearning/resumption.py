"""An interrupted training goes on where it was: what its steps changed is kept in a folder from time to time.

A run that is started again does everything else again (reading the reference, adding noise), and each of its trainings
takes up the state that was kept of it last. All of this is deterministic, so the weights become those of a run that
was not interrupted. A method need not know: the run is found through the context, as gradient modes are.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from audit.errors import CheckpointError
from audit.result.files import replacing

EVERY: Final = 300.0
"""Seconds between two states that are kept of a training."""
PAUSE: Final = 20.0
"""At least so many times as long as it took to write the last state."""
STATE: Final = re.compile(r"\w+-\d+\.safetensors")
HALF_WRITTEN: Final = re.compile(rf"\.tmp\w+|\.{STATE.pattern}\.\w+")
"""Names of files; what a killed process was writing, safetensors' own file first."""

Rows = list[Mapping[str, float]]
"""The numbers that were recorded at each step."""


@dataclass
class UnfinishedRun:
    """The folder of a run, in which each of its trainings has a file.

    Attributes:
        key: digest of all that the weights depend on; files of other keys are left alone.
        every: seconds between two states that are kept.
    """

    folder: Path
    key: str
    every: float = EVERY
    _trainings: int = field(default=0, init=False)
    _due: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._due = time.monotonic() + self.every

    @property
    def is_kept(self) -> bool:
        """Whether there is a state from which the run would go on."""
        return any(self.folder.glob(f"{self.key}-*"))

    def next_file(self) -> Path:
        """The file of the next training."""
        self._trainings += 1
        return self.folder / f"{self.key}-{self._trainings}.safetensors"

    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    def has_kept(self, seconds: float) -> None:
        """A state has been written, which took so long."""
        self._due = time.monotonic() + max(self.every, PAUSE * seconds)

    def discard(self) -> None:
        """Remove what was kept of this run."""
        for file in self.folder.glob(f"{self.key}-*"):
            file.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def remove(self) -> None:
        """Remove the folder, also with what was kept of runs with other settings that were not finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


_RUN: ContextVar[UnfinishedRun | None] = ContextVar("unfinished_run", default=None)


@contextmanager
def resumable(run: UnfinishedRun) -> Iterator[None]:
    """Trainings inside the block are kept in the folder of ``run``, and go on from what was kept there.

    Raises:
        CheckpointError: the folder contains something else.
    """
    _clean(run.folder)
    token = _RUN.set(run)
    try:
        yield
    finally:
        _RUN.reset(token)


def _clean(folder: Path) -> None:
    """Remove half-written files from the folder of an unfinished run, and refuse any other folder."""
    if not folder.exists():
        return
    files = list(folder.iterdir()) if folder.is_dir() else [folder]
    half_written = [file for file in files if HALF_WRITTEN.fullmatch(file.name)]
    if any(not STATE.fullmatch(file.name) for file in files if file not in half_written):
        raise CheckpointError(
            "is not the folder of an unfinished run, so it is left alone.",
            where=str(folder),
            hint="Move it, or save the model under another name.",
        )
    for file in half_written:
        file.unlink()


@dataclass
class Training:
    """What the steps of one training change, and the file in which it is kept.

    Attributes:
        state: tensors that the steps change in place, beside the optimizer's parameters.
        file: ``None`` for a training that is not kept.
        note: what a user is told after the name of the work.
    """

    optimizer: torch.optim.Optimizer
    state: Sequence[Tensor]
    run: UnfinishedRun | None
    file: Path | None
    note: str = ""

    @classmethod
    def next(cls, optimizer: torch.optim.Optimizer, state: Sequence[Tensor]) -> Training:
        """The next training of the run; outside of ``resumable`` it is not kept."""
        run = _RUN.get()
        return cls(optimizer, state, run, run.next_file() if run else None)

    def resume(self) -> Rows:
        """Put everything into the state that was kept last, if there is one; the numbers recorded until then.

        Raises:
            CheckpointError: the file is damaged.
        """
        if self.file is None or not self.file.is_file():
            return []
        try:
            with safe_open(self.file, "pt") as stored:
                rows: Rows = json.loads(stored.metadata()["rows"])
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except SafetensorError as error:
            hint = "Remove it, to begin again."
            raise CheckpointError(f"cannot be read ({error}).", where=str(self.file), hint=hint) from error
        with torch.no_grad():
            for name, tensor in self._in_place().items():
                tensor.copy_(tensors.pop(name))
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            moment, _, parameter = name.partition("/")
            moments[int(parameter)][moment] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.note = f", resumed after {len(rows)} steps"
        return rows

    @contextmanager
    def kept_if_interrupted(self, rows: Rows) -> Iterator[None]:
        """Keep the state if the block, which must not change it, is interrupted from the keyboard."""
        try:
            yield
        except KeyboardInterrupt:
            if rows:
                self._keep(rows)
            raise

    def keep_if_due(self, rows: Rows) -> None:
        """Keep the state if the last one is old enough."""
        if self.run is not None and self.run.is_due():
            self._keep(rows)

    def _keep(self, rows: Rows) -> None:
        if self.run is None or self.file is None:
            return
        begun = time.monotonic()
        tensors = self._in_place() | {
            f"{name}/{parameter}": moment
            for parameter, moments in self.optimizer.state_dict()["state"].items()
            for name, moment in moments.items()
        }
        whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        try:
            with replacing(self.file) as temporary:
                save_file(whole, temporary, {"rows": json.dumps(rows)})
        except (OSError, SafetensorError) as error:  # training goes on without it
            self.note = f", not kept in {self.run.folder.name} ({error})"
        self.run.has_kept(time.monotonic() - begun)

    def _in_place(self) -> dict[str, Tensor]:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return {f"parameter/{at}": each for at, each in enumerate(parameters)} | {
            f"state/{at}": each for at, each in enumerate(self.state)
        }
