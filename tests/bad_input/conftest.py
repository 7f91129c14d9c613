"""A sound model, and copies of it to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.checkpoint.shards import save_shards
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model, never changed."""
    return write_tiny(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def model(tmp_path: Path, shipped: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(shipped, tmp_path / "model"))


@pytest.fixture
def sharded(model: Path) -> Path:
    """The same in two shards with their index."""
    state = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    return save_shards(model, state)
