"""An interrupted training goes on where it was, and ends with the bits of one that was not interrupted."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from audit.errors import CheckpointError, ModelError
from audit.unlearning import resumption
from audit.unlearning.methods import methods
from audit.unlearning.resumption import UnfinishedRun, resumable
from audit.unlearning.training import Record, TrainingSettings, minimise
from tests.helpers import DIFFERENT, RETAIN, Log, fact_example, needed_options, open_model
from tests.tiny import write_tiny

FACTS = [*DIFFERENT, fact_example("In which city is the Scala?", "Milan", "Scala")]
TRAINING = [name for name, method in methods().items() if isinstance(method.SETTINGS, TrainingSettings)]
OPTIONS: Mapping[str, Any] = {"forget_batch": 2, "retain_batch": 2, "learning_rate": 6e-3, "distil_steps": 4}


@dataclass
class Interrupted:
    """A method on a fresh tiny model, which can be interrupted before one of its forward passes."""

    folder: Path
    name: str
    options: Mapping[str, Any]

    def run(
        self, unfinished: UnfinishedRun | None = None, at: float = math.inf, error: type = KeyboardInterrupt
    ) -> Run:
        """Train; ``error`` comes in place of the forward pass number ``at``."""
        model = open_model(self.folder)
        passes = 0

        def count(*args: Any) -> None:
            nonlocal passes
            passes += 1
            if passes >= at:
                raise error

        model.model.register_forward_pre_hook(count)
        method, log = methods()[self.name], Log()
        own = method.SETTINGS.as_json()
        settings = replace(method.SETTINGS, **{name: each for name, each in self.options.items() if name in own})
        if unfinished is None:
            record = method.unlearn(model, FACTS, RETAIN, settings, log)
        else:
            with resumable(unfinished):
                record = method.unlearn(model, FACTS, RETAIN, settings, log)
        return Run({name: each.clone() for name, each in model.model.state_dict().items()}, record, passes, log)


@dataclass
class Run:
    """How a run ended."""

    weights: dict[str, torch.Tensor]
    record: Record
    passes: int
    log: Log

    def require_same(self, other: Run) -> None:
        assert all(torch.equal(value, other.weights[name]) for name, value in self.weights.items())
        assert self.record == other.record


Subject = Callable[..., Interrupted]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    folder = write_tiny(tmp_path / "model")

    def named(name: str, **options: Any) -> Interrupted:
        return Interrupted(folder, name, {"steps": 6, **OPTIONS, **needed_options(name, tmp_path), **options})

    return named


def unfinished(tmp_path: Path, every: float, key: str = "a" * 16) -> UnfinishedRun:
    return UnfinishedRun(tmp_path / "out.partial", key, every)


@pytest.mark.parametrize("name", TRAINING)
def test_every_method_goes_on_from_the_keyboards_interruption_with_the_same_bits(
    name: str, subject: Subject, tmp_path: Path
) -> None:
    training = subject(name)
    whole = training.run()
    with pytest.raises(KeyboardInterrupt):
        training.run(unfinished(tmp_path, math.inf), at=whole.passes - 2)
    assert unfinished(tmp_path, math.inf).is_kept
    rest = training.run(unfinished(tmp_path, math.inf))
    rest.require_same(whole)
    assert rest.passes < whole.passes
    assert any("resumed after" in text for text, _, _ in rest.log.steps)


@pytest.mark.parametrize("name", ["npo", "pdu", "l1_sparse", "undo"])
@pytest.mark.parametrize("missing", [1, 3])
def test_a_killed_run_goes_on_from_the_last_state_that_was_kept_in_time(
    name: str, missing: int, subject: Subject, tmp_path: Path
) -> None:
    training = subject(name)
    whole = training.run()
    with pytest.raises(OSError):
        training.run(unfinished(tmp_path, 0.0), at=whole.passes - missing, error=OSError)
    rest = training.run(unfinished(tmp_path, 0.0))
    rest.require_same(whole)
    assert rest.passes < whole.passes


def test_adapters_are_resumed_too(subject: Subject, tmp_path: Path) -> None:
    training = subject("npo", lora_rank=2)
    whole = training.run()
    with pytest.raises(KeyboardInterrupt):
        training.run(unfinished(tmp_path, math.inf), at=whole.passes - 2)
    training.run(unfinished(tmp_path, math.inf)).require_same(whole)


def test_a_run_may_be_interrupted_again_and_again(subject: Subject, tmp_path: Path) -> None:
    training = subject("pdu")
    whole = training.run()
    reading = whole.passes - 6
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            training.run(unfinished(tmp_path, math.inf), at=reading + 3)  # two steps at a time
    rest = training.run(unfinished(tmp_path, math.inf))
    rest.require_same(whole)
    assert rest.passes == reading + 2


def test_without_a_state_of_this_key_a_run_begins_at_the_beginning(subject: Subject, tmp_path: Path) -> None:
    training = subject("npo")
    whole = training.run()
    with pytest.raises(KeyboardInterrupt):
        training.run(unfinished(tmp_path, math.inf), at=whole.passes)
    other = unfinished(tmp_path, math.inf, key="b" * 16)
    assert not other.is_kept
    assert training.run(other).passes == whole.passes
    assert unfinished(tmp_path, math.inf).is_kept, "what belongs to another run is left alone"
    unfinished(tmp_path, math.inf).discard()
    assert not other.folder.exists()


def test_nothing_is_written_unless_it_is_due(subject: Subject, tmp_path: Path) -> None:
    run = unfinished(tmp_path, 3600.0)
    subject("npo").run(run)
    assert not run.folder.exists()


def test_where_writing_takes_long_it_happens_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    run = unfinished(tmp_path, 300.0)
    for seconds, pause in ((1.0, 300.0), (60.0, 1200.0)):
        run.has_kept(seconds)
        now += pause - 1
        assert not run.is_due()
        now += 1
        assert run.is_due()


def test_a_folder_of_something_else_is_left_alone(subject: Subject, tmp_path: Path) -> None:
    run = unfinished(tmp_path, math.inf)
    run.folder.mkdir()
    (run.folder / "model.safetensors").write_text("mine")
    with pytest.raises(CheckpointError, match="left alone"):
        subject("npo").run(run)
    assert (run.folder / "model.safetensors").read_text() == "mine"


def test_what_a_killed_process_was_writing_is_removed(subject: Subject, tmp_path: Path) -> None:
    run = unfinished(tmp_path, 0.0)
    run.folder.mkdir()
    for name in (".tmpAb12x", f".{run.key}-1.safetensors.x7_y"):
        (run.folder / name).write_text("half")
    subject("npo").run(run)
    assert [file.name for file in run.folder.iterdir()] == [f"{run.key}-1.safetensors"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), SafetensorError("No space left")])
def test_a_full_disk_does_not_end_a_training_that_is_only_to_be_kept(
    error: Exception, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = subject("npo")
    whole = training.run()

    def full(*args: Any) -> None:
        raise error

    monkeypatch.setattr(resumption, "save_file", full)
    run = unfinished(tmp_path, 0.0)
    other = training.run(run)
    other.require_same(whole)
    assert any("not kept in out.partial" in text and "No space left" in text for text, _, _ in other.log.steps)
    assert not list(run.folder.iterdir())


# ---- divergence


def test_an_update_that_is_not_finite_names_the_last_good_step() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))

    def step(batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        root = (parameter * (0.0 if batch == 2 else 1.0)).abs().sqrt()  # its gradient at 0 is not defined
        return root.sum(), {}

    with pytest.raises(ModelError, match="norm of the weights is nan at step 2; the last good step is 1"):
        minimise([parameter], iter(range(9)), step, TrainingSettings(), Log(), "")


@pytest.mark.parametrize(
    ("bad", "said"), [(0, "at step 0; no step was good"), (3, "at step 3; the last good step is 2")]
)
def test_a_loss_that_is_not_finite_names_the_last_good_step(bad: int, said: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))

    def step(batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        return parameter.sum() * (torch.inf if batch == bad else 1.0), {}

    with pytest.raises(ModelError, match=f"the loss is inf {said}") as caught:
        minimise([parameter], iter(range(9)), step, TrainingSettings(), Log(), "")
    assert ("learning_rate" in str(caught.value.hint)) == (bad > 0)  # before the first step it has no effect
