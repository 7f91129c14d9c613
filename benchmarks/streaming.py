"""Comparing two sharded bfloat16 checkpoints of 3.2 billion random parameters (6.4 GB each) without a tokenizer.

A child process measures the seconds of ``compare`` and the peak of its resident memory, and for comparison the seconds
to read and hash all shards on one thread. Needs 13 GB of disk; ``--layers N`` makes the models smaller.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import publish

GOAL_RATIO = 4.0
GOAL_GIGABYTES = 1.5
LAYERS = 28
SIZES = {"d_model": 3072, "d_mlp": 8192, "d_vocab": 128_256, "d_kv": 1024}
SHARD_LAYERS = 7
UPDATE = 1e-3
"""Standard deviation of the update; that of the weights is 0.02."""

CHILD = """
import hashlib, json, sys, time
from pathlib import Path
base, unlearned = Path(sys.argv[1]), Path(sys.argv[2])
start = time.perf_counter()
for folder in (base, unlearned):
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            hashlib.file_digest(stream, "sha256")
hashed = time.perf_counter() - start
from audit.commands.compare import compare
start = time.perf_counter()
result = compare(base, unlearned)
seconds = time.perf_counter() - start
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(json.dumps({"hashed": hashed, "seconds": seconds, "gigabytes": peak / 1e6,
                  "changed": result.weights.changed_tensors, "total": result.weights.total_tensors}))
"""


def main(arguments: list[str]) -> None:
    """One comparison with every tensor changed."""
    layers = int(arguments[arguments.index("--layers") + 1]) if "--layers" in arguments else LAYERS
    with tempfile.TemporaryDirectory() as scratch:
        base, unlearned = Path(scratch) / "base", Path(scratch) / "unlearned"
        size = write_pair(base, unlearned, layers)
        command = [sys.executable, "-c", CHILD, str(base), str(unlearned)]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ratio = measured["seconds"] / measured["hashed"]
    row = {
        "model": f"{layers} layers, {size / 2e9:.1f} billion parameters, bfloat16",
        "changed tensors": f"{measured['changed']} of {measured['total']}",
        "read and hash s": measured["hashed"],
        "compare s": measured["seconds"],
        "ratio": ratio,
        "goal ratio": GOAL_RATIO,
        "peak GB": measured["gigabytes"],
        "goal GB": GOAL_GIGABYTES,
        "reached": ratio <= GOAL_RATIO and measured["gigabytes"] <= GOAL_GIGABYTES,
    }
    publish("streaming", [row], "peak: of the whole process, the interpreter and torch included")


def write_pair(base: Path, unlearned: Path, layers: int) -> int:
    """Write both models, in shards of ``SHARD_LAYERS`` layers with an index; return the bytes of one of them."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    maps: dict[Path, dict[str, str]] = {base: {}, unlearned: {}}
    shapes = list(tensor_shapes(layers).items())
    groups: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for name, shape in shapes:
        groups.setdefault(int(name.split(".")[2]) // SHARD_LAYERS + 1 if ".layers." in name else 0, []).append(
            (name, shape)
        )
    for folder in maps:
        folder.mkdir()
    size = 0
    for number, group in sorted(groups.items()):
        file = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        before = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in group}
        save_file({name: value.bfloat16() for name, value in before.items()}, base / file)
        for value in before.values():
            value.add_(UPDATE * torch.randn(value.shape, generator=generator))
        after = {name: value.bfloat16() for name, value in before.items()}
        size += sum(value.nbytes for value in after.values())
        save_file(after, unlearned / file)
        for weight_map in maps.values():
            weight_map.update(dict.fromkeys(before, file))
    for folder, weight_map in maps.items():
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return size


def tensor_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a Llama model whose head is tied."""
    d, mlp, kv = SIZES["d_model"], SIZES["d_mlp"], SIZES["d_kv"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (SIZES["d_vocab"], d), "model.norm.weight": (d,)}
    for layer in range(layers):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.{norm}_layernorm.weight": (d,) for norm in ("input", "post_attention")}
        shapes |= {f"{block}.self_attn.{name}_proj.weight": (kv, d) for name in "kv"}
        shapes |= {f"{block}.self_attn.{name}_proj.weight": (d, d) for name in "qo"}
        shapes |= {f"{block}.mlp.{name}_proj.weight": (mlp, d) for name in ("gate", "up")}
        shapes[f"{block}.mlp.down_proj.weight"] = (d, mlp)
    return shapes


if __name__ == "__main__":
    main(sys.argv[1:])
