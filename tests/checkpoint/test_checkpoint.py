"""Checkpoint: tensors are read bit for bit in every format, and memory does not grow with the file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audit.checkpoint import open_checkpoint
from tests.checkpoint.state_dicts import STATE, bits, write_state
from tests.tiny import FAMILIES, write_tiny


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_every_tensor_comes_back_bitwise_with_shape_and_dtype(tmp_path: Path, name: str) -> None:
    checkpoint = open_checkpoint(write_state(tmp_path / name))
    assert set(checkpoint.tensors) == set(STATE)
    for key, expected in STATE.items():
        read, info = checkpoint.tensor(key), checkpoint.tensors[key]
        assert (read.dtype, read.shape) == (expected.dtype, expected.shape) == (info.dtype, torch.Size(info.shape))
        assert bits(read) == bits(expected)
        assert info.nbytes == expected.nbytes
        assert info.file == name


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_rows_are_rows_of_the_tensor_and_a_wrong_range_is_an_error(tmp_path: Path, name: str) -> None:
    checkpoint = open_checkpoint(write_state(tmp_path / name))
    for key in ("a.weight", "b.weight"):
        assert bits(checkpoint.rows(key, 1, 3)) == bits(STATE[key][1:3])
    assert checkpoint.rows("a.weight", 2, 2).shape == (0, 3)
    for start, stop in ((-1, 2), (3, 5), (3, 2)):
        with pytest.raises(IndexError, match=r"a\.weight, which has rows 0:4"):
            checkpoint.rows("a.weight", start, stop)


def test_a_tensor_read_twice_shares_no_memory_with_itself_or_the_file(tmp_path: Path) -> None:
    for name in ("weights.safetensors", "weights.pt"):
        path = write_state(tmp_path / name)
        before = path.read_bytes()
        checkpoint = open_checkpoint(path)
        checkpoint.tensor("a.weight").zero_()
        assert bits(checkpoint.tensor("a.weight")) == bits(STATE["a.weight"])
        assert path.read_bytes() == before


def test_file_records_contain_size_and_sha256_of_each_weight_file(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    (record,) = open_checkpoint(folder).file_records()
    content = (folder / "model.safetensors").read_bytes()
    assert (record.name, record.bytes) == ("model.safetensors", len(content))
    assert record.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_is_read_as_written(tmp_path: Path, family: str) -> None:
    folder = write_tiny(tmp_path / "model", family)
    stored = load_file(folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert {name: bits(checkpoint.tensor(name)) for name in checkpoint.tensors} == {
        name: bits(tensor) for name, tensor in stored.items()
    }


def test_tiny_models_are_the_same_bytes_for_the_same_seed_only(tmp_path: Path) -> None:
    one, same, other = (
        (write_tiny(tmp_path / str(i), seed=seed) / "model.safetensors").read_bytes()
        for i, seed in enumerate((0, 0, 1))
    )
    assert one == same != other


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_peak_memory_follows_the_largest_tensor_not_the_file(tmp_path: Path, ending: str) -> None:
    n_tensors, mebibytes = 24, 8
    state = {f"t{i}": torch.full((mebibytes, 2**18), float(i)) for i in range(n_tensors)}
    path = write_state(tmp_path / f"big.{ending}", state)
    del state
    script = (
        "import resource, sys; from pathlib import Path; from audit.checkpoint import open_checkpoint\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak(); c = open_checkpoint(Path(sys.argv[1]))\n"
        "for n in c.tensors: c.tensor(n)\n"
        "print(peak() - before)"
    )
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < n_tensors * mebibytes / 2
