"""config.json: what is not a JSON object of bounded size with unique keys is refused with its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.checkpoint.config import read_config
from audit.errors import ModelError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "contains a list"),
        (b'{"n_layer": 1, "n_layer": 2}', "'n_layer' appears twice"),
        (b"\xff\xfe", "not valid JSON"),
        (b" " * 10_000_001, "too many for a model config"),
    ],
)
def test_a_broken_config_is_refused_with_its_path(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)
