"""Checkpoint: what comes out is bit for bit what is stored, whatever stores it, and memory stays small."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audit.checkpoint import combine_digests, open_checkpoint, tensor_digest
from audit.errors import CheckpointError
from tests.tiny import FAMILIES, write_tiny

STATE = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(4, 3),
    "b.weight": torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
    "half": torch.tensor([1.5, float("nan")], dtype=torch.float16),
    "double": torch.tensor([[0.1]], dtype=torch.float64),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "bytes": torch.tensor([[-3, 4]], dtype=torch.int8),
    "none": torch.empty(0, 3),
}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def write_state(path: Path, state: dict[str, torch.Tensor] | None = None) -> Path:
    """A state dict in the format that the ending of ``path`` names."""
    state = STATE if state is None else state
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


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


def test_the_format_is_told_from_content_not_from_the_name(tmp_path: Path) -> None:
    write_state(tmp_path / "weights.safetensors").rename(tmp_path / "renamed.bin")
    assert open_checkpoint(tmp_path / "renamed.bin").format == "safetensors"
    write_state(tmp_path / "weights.pt").rename(tmp_path / "renamed.weights")
    assert open_checkpoint(tmp_path / "renamed.weights").format == "torch"


def test_a_pickle_under_a_name_that_promises_none_is_refused(tmp_path: Path) -> None:
    write_state(tmp_path / "weights.pt").rename(tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="a torch pickle under a safetensors name"):
        open_checkpoint(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
def test_wrapper_prefixes_on_all_names_are_stripped_and_said(tmp_path: Path, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in STATE.items()}
    checkpoint = open_checkpoint(write_state(tmp_path / "weights.safetensors", state))
    assert set(checkpoint.tensors) == set(STATE)
    assert bits(checkpoint.tensor("a.weight")) == bits(STATE["a.weight"])
    assert checkpoint.tensors["a.weight"].name == "a.weight"
    assert all(repr(part + ".") in " ".join(checkpoint.notes) for part in ("module", "_orig_mod") if part in prefix)
    assert checkpoint.notes


def test_a_prefix_on_some_names_is_left_alone(tmp_path: Path) -> None:
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    checkpoint = open_checkpoint(write_state(tmp_path / "weights.safetensors", state))
    assert set(checkpoint.tensors) == {"module.a", "b"}
    assert checkpoint.notes == ()


def test_file_records_hold_size_and_sha256_of_each_weight_file(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    (record,) = open_checkpoint(folder).file_records()
    content = (folder / "model.safetensors").read_bytes()
    assert (record.name, record.bytes) == ("model.safetensors", len(content))
    assert record.sha256 == hashlib.sha256(content).hexdigest()


def test_config_dir_is_the_folder_that_holds_a_config(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    assert open_checkpoint(folder).config_dir == folder
    assert open_checkpoint(folder / "model.safetensors").config_dir == folder
    assert open_checkpoint(write_state(tmp_path / "alone.pt")).config_dir is None


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


def test_digests_depend_on_name_dtype_shape_and_every_byte_but_not_on_order() -> None:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    digest = tensor_digest("a", tensor)
    assert digest == tensor_digest("a", tensor.clone())
    changed = tensor.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    others = [
        tensor_digest("b", tensor),
        tensor_digest("a", tensor.reshape(3, 2)),
        tensor_digest("a", tensor.view(torch.int32)),
        tensor_digest("a", changed),
    ]
    assert len({digest, *others}) == 5
    pairs = [("a", digest), ("b", others[0])]
    assert combine_digests(pairs) == combine_digests(reversed(pairs)) != combine_digests(pairs[:1])
    assert tensor_digest("c", torch.tensor(1.0)) != tensor_digest("c", torch.empty(0))


def test_minus_zero_is_a_change() -> None:
    assert tensor_digest("a", torch.tensor([0.0])) != tensor_digest("a", torch.tensor([-0.0]))


def test_absent_and_unreadable_paths_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file") as caught:
        open_checkpoint(tmp_path / "nowhere.safetensors")
    assert "\n" not in str(caught.value)
    assert "nowhere.safetensors" in str(caught.value)


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_peak_memory_follows_the_largest_tensor_not_the_file(tmp_path: Path, ending: str) -> None:
    n_tensors, mebibytes = 24, 16
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
