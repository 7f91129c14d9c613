"""The config in a GGUF file's metadata: complete, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.architectures import identify
from audit.checkpoint import open_checkpoint
from audit.checkpoint.formats.gguf_config import gguf_config
from audit.errors import CheckpointError
from tests.checkpoint.formats.gguf_files import pack


def test_the_config_in_the_metadata_fits_the_tensors(llama_gguf: Path) -> None:
    config = gguf_config(llama_gguf)
    assert config["model_type"] == "llama"
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    assert config["tie_word_embeddings"] is True
    architecture = identify(open_checkpoint(llama_gguf), config)
    assert architecture is not None
    assert (architecture.n_layers, architecture.d_model, architecture.d_mlp) == (2, 32, 64)


def test_scaled_rotary_positions_give_no_config(tmp_path: Path) -> None:
    path = tmp_path / "scaled.gguf"
    path.write_bytes(pack({"llama.rope.scaling.type": "linear"}))
    with pytest.raises(CheckpointError, match="rotary positions are scaled"):
        gguf_config(path)


def test_metadata_that_lacks_a_size_gives_no_config(tmp_path: Path) -> None:
    (tmp_path / "bare.gguf").write_bytes(pack({}))
    with pytest.raises(CheckpointError, match=r"lacks llama\.block_count"):
        gguf_config(tmp_path / "bare.gguf")
