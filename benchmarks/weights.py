"""Comparing the weights of two SmolLM2 checkpoints (float32, 538 MB each), against reading and hashing the files.

Each case runs in a child process: seconds of ``compare`` on two files without config and tokenizer, late imports
included, and the peak of resident memory above that of the interpreter with torch imported.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import publish

GOAL_RATIO = 4.0
GOAL_MEGABYTES = 700.0
RUNS = 5

CHILD = """
import hashlib, json, sys, time
from pathlib import Path
import torch
def peak():  # kilobytes, of this process image alone: ru_maxrss would count the parent before exec
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])
before = peak()
base, unlearned = Path(sys.argv[1]), Path(sys.argv[2])
start = time.perf_counter()
for path in (base, unlearned):
    with path.open("rb") as stream:
        hashlib.file_digest(stream, "sha256")
hashed = time.perf_counter() - start
from audit.commands.compare import compare
start = time.perf_counter()
result = compare(base, unlearned)
seconds = time.perf_counter() - start
print(json.dumps({"hashed": hashed, "seconds": seconds, "megabytes": (peak() - before) / 1024,
                  "changed": result.weights.changed_tensors, "total": result.weights.total_tensors}))
"""


def main() -> None:
    """Every tensor changed (the worst case), and forty value vectors changed; the median of five runs each."""
    from audit.commands.demo import model_folder
    from audit.settings import default_cache

    source = model_folder(default_cache()) / "model.safetensors"
    with tempfile.TemporaryDirectory() as scratch:
        base, everything, few = (Path(scratch) / f"{name}.safetensors" for name in ("base", "all", "few"))
        shutil.copy(source, base)  # without its tokenizer: the words of changed neurons are not part of this benchmark
        perturb(base, everything, everywhere=True)
        perturb(base, few, everywhere=False)
        rows = [case("every tensor changed", base, everything), case("40 value vectors changed", base, few)]
    publish("weights", rows, "ratio: our time / time of reading and hashing both files on one thread, in the same run")


def perturb(base: Path, target: Path, *, everywhere: bool) -> None:
    """A copy of the model with noise on every tensor, or with forty value vectors halved."""
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(base)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        if everywhere:
            state[name] = tensor + 1e-4 * torch.randn(tensor.shape, generator=generator)
        elif name.endswith("down_proj.weight") and int(name.split(".")[2]) >= 22:
            tensor[:, :5] *= 0.5
    save_file(state, target)


def case(name: str, base: Path, unlearned: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", CHILD, str(base), str(unlearned)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(RUNS)]
    middle = sorted(runs, key=lambda run: run["seconds"] / run["hashed"])[RUNS // 2]
    ratio = middle["seconds"] / middle["hashed"]
    peak = max(run["megabytes"] for run in runs)
    return {
        "case": name,
        "changed tensors": f"{middle['changed']} of {middle['total']}",
        "read and hash s": middle["hashed"],
        "compare s": middle["seconds"],
        "ratio": ratio,
        "goal ratio": GOAL_RATIO,
        "peak MB": peak,
        "goal MB": GOAL_MEGABYTES,
        "reached": ratio <= GOAL_RATIO and peak <= GOAL_MEGABYTES,
    }


if __name__ == "__main__":
    main()
