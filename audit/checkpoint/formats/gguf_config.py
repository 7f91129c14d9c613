"""The model config that a GGUF file's metadata contains."""

from __future__ import annotations

from pathlib import Path

from audit.architectures.config import Config
from audit.checkpoint.formats.gguf_file import gguf_family
from audit.checkpoint.formats.gguf_header import read_header
from audit.errors import CheckpointError


def gguf_config(path: Path) -> Config:
    """The content of an equivalent config.json, from the metadata of ``path``.

    Raises:
        CheckpointError: the metadata lacks a required entry, or scales rotary positions, which is not supported.
    """
    header = read_header(path)
    family, names = gguf_family(header, path)
    scaling = header.metadata.get(f"{family.name}.rope.scaling.type", "none")
    if scaling != "none" or not names.ignore.isdisjoint(header.tensors):
        raise CheckpointError(
            "its rotary positions are scaled, which is not supported for GGUF.",
            where=str(path),
            hint="Pass the model as safetensors, or its config with --config.",
        )
    missing = [entry for entry in names.config.values() if entry not in header.metadata]
    if missing:
        raise CheckpointError(f"its metadata lacks {', '.join(missing)}.", where=str(path))
    metadata = {**names.config, **names.optional_config}
    gguf_names = {target: stored for stored, target in names.tensors.items()}
    return {
        "architectures": [names.model_class],
        "model_type": family.model_types[0],
        "tie_word_embeddings": gguf_names[family.by_role["head"].pattern] not in header.tensors,
        "vocab_size": header.tensors[gguf_names[family.by_role["embedding"].pattern]].shape[0],
        **{key: header.metadata[entry] for key, entry in metadata.items() if entry in header.metadata},
    }
