"""A folder of two shards with their index, and changes to that index."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
PROBE = "model.layers.1.mlp.down_proj.weight"


def save_shards(folder: Path, state: dict[str, torch.Tensor], suffix: str = "safetensors") -> Path:
    """``state`` in two shards and an index, as transformers writes them."""
    folder.mkdir(exist_ok=True)
    names = sorted(state)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for number, part in ((1, names[: len(names) // 2]), (2, names[len(names) // 2 :])):
        shard = f"{stem}-0000{number}-of-00002.{suffix}"
        content = {name: state[name] for name in part}
        if suffix == "safetensors":
            save_file(content, folder / shard, metadata={"format": "pt"})
        else:
            torch.save(content, folder / shard)
        weight_map.update(dict.fromkeys(part, shard))
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def edit_index(folder: Path, **weight_map: str | None) -> None:
    """Change entries of the weight map; ``None`` removes one."""
    index = json.loads((folder / INDEX).read_text())
    for name, shard in weight_map.items():
        if shard is None:
            del index["weight_map"][name]
        else:
            index["weight_map"][name] = shard
    (folder / INDEX).write_text(json.dumps(index))


def weight_map(folder: Path) -> dict[str, str]:
    mapping: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    return mapping
