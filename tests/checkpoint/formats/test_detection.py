"""The format of a weight file: its content decides, and a pickle under a safetensors name is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.checkpoint import open_checkpoint
from audit.errors import CheckpointError
from tests.checkpoint.state_dicts import write_state


def test_the_format_is_decided_by_content_not_by_name(tmp_path: Path) -> None:
    write_state(tmp_path / "weights.safetensors").rename(tmp_path / "renamed.bin")
    assert open_checkpoint(tmp_path / "renamed.bin").format == "safetensors"
    write_state(tmp_path / "weights.pt").rename(tmp_path / "renamed.weights")
    assert open_checkpoint(tmp_path / "renamed.weights").format == "torch"


def test_a_pickle_under_a_safetensors_name_is_refused(tmp_path: Path) -> None:
    write_state(tmp_path / "weights.pt").rename(tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="a torch pickle under a safetensors name"):
        open_checkpoint(tmp_path / "weights.safetensors")
