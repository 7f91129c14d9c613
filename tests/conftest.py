"""Shared fixtures: the one real model that a package ships, and a results folder of a tiny audit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from jaxtyping import config

import tests.shapes

if TYPE_CHECKING:
    from audit.models.loading import RunningModel

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Two threads on a matrix of 16 columns mostly wait for each other, and with pytest-xdist each core has its own worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")

tests.shapes.install("audit", "concepts")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch  # costs a second, and not every run collects a test

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of a run, and for no other run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a model folder, converted once, by one worker, and cached between runs."""
    from audit.commands.demo import model_folder
    from audit.settings import default_cache

    with FileLock(tmp_path_factory.getbasetemp().parent / "smollm2.lock"):
        return model_folder(default_cache().absolute())


@pytest.fixture(scope="session")
def running_smollm2(smollm2: Path) -> RunningModel:
    """SmolLM2 ready to run; tests leave it as it is."""
    from audit.models.opening import open_model

    return open_model(smollm2).load()


@pytest.fixture
def short_needle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Needle trains for a few steps."""
    from audit.interventions import needle

    monkeypatch.setattr(needle, "NeedleSettings", partial(needle.NeedleSettings, steps=10))


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """For files with arrays of wrong shapes: the product must refuse them where nothing checks its signatures."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
