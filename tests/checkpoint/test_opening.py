"""Opening a path: the folder of its config, and errors of the file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.checkpoint import open_checkpoint
from audit.errors import CheckpointError
from tests.checkpoint.state_dicts import write_state
from tests.tiny import write_tiny


def test_config_dir_is_the_folder_that_contains_a_config(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    assert open_checkpoint(folder).config_dir == folder
    assert open_checkpoint(folder / "model.safetensors").config_dir == folder
    assert open_checkpoint(write_state(tmp_path / "alone.pt")).config_dir is None


def test_absent_and_unreadable_paths_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file") as caught:
        open_checkpoint(tmp_path / "nowhere.safetensors")
    assert "\n" not in str(caught.value)
    assert "nowhere.safetensors" in str(caught.value)
