"""Weight files and folders that are damaged, incomplete or ambiguous, and things that are not files.

Where the usual loaders take the file without an exception, the test also shows what they make of it: those are the
inputs that would have been audited as something they are not."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audit.checkpoint import open_checkpoint
from audit.commands.compare import compare
from audit.models.pair import open_pair
from audit.questions.topics import load_concepts
from audit.request import Request
from tests.bad_input.samples import naive_probe, refusal, restate, true_probe
from tests.checkpoint.formats.gguf_files import entry
from tests.checkpoint.formats.gguf_files import pack as gguf_file
from tests.checkpoint.shards import FIRST, INDEX, PROBE, SECOND, edit_index, weight_map


def test_a_file_without_one_of_the_tensors_is_refused(model: Path, shipped: Path) -> None:
    restate(model, lambda state: {name: value for name, value in state.items() if name != PROBE})
    assert not torch.equal(naive_probe(model), true_probe(shipped))  # random numbers, and a line in a log
    assert f"missing: {PROBE}" in refusal(open_pair, shipped, model)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_the_prefix_of_a_known_wrapper_is_stripped_and_noted(model: Path, shipped: Path, prefix: str) -> None:
    restate(model, lambda state: {prefix + name: value for name, value in state.items()})
    assert not torch.equal(naive_probe(model), true_probe(shipped))
    assert torch.equal(true_probe(model), true_probe(shipped))
    assert f"stripped prefix {prefix!r}" in open_checkpoint(model).notes[0]


def test_names_with_an_unknown_prefix_are_refused(model: Path, shipped: Path) -> None:
    restate(model, lambda state: {f"wrapped.{name}": value for name, value in state.items()})
    assert not torch.equal(naive_probe(model), true_probe(shipped))
    assert "no tensor has a name of that family" in refusal(open_pair, shipped, model)


def test_an_index_that_omits_a_shard_is_refused(sharded: Path, shipped: Path) -> None:
    forgotten = weight_map(sharded)[PROBE]
    edit_index(sharded, **{name: None for name, shard in weight_map(sharded).items() if shard == forgotten})
    assert not torch.equal(naive_probe(sharded), true_probe(shipped))
    assert f"shards that the index does not name: {forgotten}" in refusal(open_checkpoint, sharded)


def test_an_index_that_names_the_wrong_shard_is_refused(sharded: Path, shipped: Path) -> None:
    """An older copy of the tensor lies in the shard that the index does not name, and wins in transformers."""
    edit_index(sharded, **{PROBE: FIRST})
    true = true_probe(shipped)
    for shard, value in ((FIRST, true), (SECOND, torch.zeros_like(true))):
        save_file({**load_file(sharded / shard), PROBE: value}, sharded / shard, metadata={"format": "pt"})
    assert not torch.equal(naive_probe(sharded), true)
    assert f"{PROBE} is in {FIRST} and in {SECOND}" in refusal(open_checkpoint, sharded)


@pytest.mark.parametrize("path", ["relative", "absolute"])
def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path: Path, sharded: Path, path: str) -> None:
    shard = weight_map(sharded)[PROBE]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    substitute = {name: torch.full_like(value, 9.0) for name, value in load_file(sharded / shard).items()}
    save_file(substitute, elsewhere / shard, metadata={"format": "pt"})
    (sharded / shard).unlink()
    target = f"../elsewhere/{shard}" if path == "relative" else str(elsewhere / shard)
    edit_index(sharded, **{name: target for name, its in weight_map(sharded).items() if its == shard})
    assert (naive_probe(sharded) == 9.0).all()  # the outside file, without a word
    assert "do not trust it" in refusal(open_checkpoint, sharded)


def test_a_shard_that_links_out_of_the_folder_is_refused(tmp_path: Path, sharded: Path) -> None:
    shard = weight_map(sharded)[PROBE]
    substitute = {name: torch.full_like(value, 9.0) for name, value in load_file(sharded / shard).items()}
    save_file(substitute, tmp_path / "outside.safetensors", metadata={"format": "pt"})
    (sharded / shard).unlink()
    (sharded / shard).symlink_to(tmp_path / "outside.safetensors")
    assert (naive_probe(sharded) == 9.0).all()
    assert "outside the folder" in refusal(open_checkpoint, sharded)


def test_missing_shards_are_named(sharded: Path) -> None:
    (sharded / FIRST).unlink()
    (sharded / SECOND).unlink()
    assert f"2 of 2 weight files are absent: {FIRST}, {SECOND}" in refusal(open_checkpoint, sharded)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("[]", "no weight_map"), ("{", "not valid JSON"), ('{"weight_map": 3}', "no weight_map"), (None, "500,000,000")],
    ids=["list", "not JSON", "number", "500 MB"],
)
def test_a_malformed_or_oversized_index_is_refused(sharded: Path, content: str | None, expected: str) -> None:
    if content is None:
        with (sharded / INDEX).open("wb") as stream:
            stream.truncate(500_000_000)  # sparse: takes no room
    else:
        (sharded / INDEX).write_text(content)
    assert expected in refusal(open_checkpoint, sharded)


def test_a_single_file_next_to_an_index_is_ambiguous(sharded: Path) -> None:
    save_file({PROBE: torch.zeros(16, 40)}, sharded / "model.safetensors", metadata={"format": "pt"})
    assert (naive_probe(sharded) == 0).all()  # the single file wins, without a word
    message = refusal(open_checkpoint, sharded)
    assert "ambiguous" in message
    assert "Pass model.safetensors itself, or remove it" in message


def test_of_two_sets_of_weights_both_are_noted_with_their_digests(model: Path, shipped: Path) -> None:
    other = {name: tensor + 1 for name, tensor in load_file(model / "model.safetensors").items()}
    torch.save(other, model / "pytorch_model.bin")
    assert torch.equal(naive_probe(model), true_probe(shipped))  # one of them wins, without a word
    (note,) = open_checkpoint(model).notes
    for name in ("model.safetensors", "pytorch_model.bin"):
        digest = hashlib.sha256((model / name).read_bytes()).hexdigest()
        assert f"{name} (SHA-256 {digest[:16]}, " in note


@pytest.mark.parametrize("fraction", [0.999, 0.5, 0.001])
def test_a_truncated_safetensors_file_is_refused(model: Path, fraction: float) -> None:
    path = model / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    message = refusal(open_checkpoint, model)
    assert "bytes short: an incomplete download?" in message
    assert "Download or save it again" in message


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.pt", "model.gguf"):
        (tmp_path / name).touch()
        assert "the file is empty" in refusal(open_checkpoint, tmp_path / name)


def test_trailing_bytes_are_refused(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as stream:
        stream.write(b"12345")
    assert "5 bytes follow the last tensor" in refusal(open_checkpoint, model)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html><title>404</title></html>", "the download got an error page"),
    ],
    ids=["LFS pointer", "web page"],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.gguf"])
def test_a_file_with_only_the_name_of_weights_is_refused(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in refusal(open_checkpoint, tmp_path)


def sized(shape: str) -> bytes:
    """A safetensors file of one tensor of 4 bytes that claims ``shape``."""
    header = f'{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}'.encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (struct.pack("<Q", 2**62) + b"{}", "at most 100,000,000"),
        (sized("[1099511627776,1099511627776]"), f"needs {4 * 2**80:,} bytes"),
        (sized(f"[{'9' * 4000}]"), "shape or offsets of a"),
        (sized(f"[{'9' * 5000}]"), "not valid JSON"),  # Python itself reads no number so long
        (sized("[0,4611686018427387904,4611686018427387904]"), "shape or offsets of a"),
        (sized(f"[{'2,' * 100_000}2]"), "shape or offsets of a"),
    ],
    ids=["header length", "shape", "number", "long number", "empty", "dimensions"],
)
def test_a_header_with_absurd_sizes_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert expected in refusal(open_checkpoint, path)


def test_a_header_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    twice = (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    )
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(twice)) + twice + struct.pack("<ff", 1, 2))
    assert load_file(path)["a"].tolist() == [1, 2]  # the second one, without a word
    assert "the key 'a' appears twice" in refusal(open_checkpoint, path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_a_folder_pipe_or_device_is_not_read_as_a_file(tmp_path: Path, shipped: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "folder":
        place.mkdir()
        assert "no weights in this folder" in refusal(open_checkpoint, place)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero")
    if kind != "folder":
        assert "not a regular file" in refusal(open_checkpoint, place)
    place.rename(tmp_path / "rivers.toml")
    assert "not a regular file" in refusal(load_concepts, [str(tmp_path / "rivers.toml")])
    (tmp_path / "rivers.toml").rename(tmp_path / INDEX)
    assert "not a regular file" in refusal(open_checkpoint, tmp_path)
    if kind != "folder":
        assert "no such guard" in refusal(compare, shipped, shipped, request=Request(guard=tmp_path / INDEX))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (gguf_file({})[:-5], "5 bytes short: an incomplete download?"),
        (b"FUGG" + gguf_file({})[4:], "not a weight file: it begins with b'FUGG"),
        (gguf_file({})[:24] + struct.pack("<Q", 2**60) + bytes(64), f"needs {2**60:,} bytes"),
        (
            gguf_file({}, (entry("output_norm.weight", kind=999),)),
            "unknown quantisation type 999; known are F32, F16, ",
        ),
        (gguf_file({}, (entry("output_norm.weight", (2**60, 0)),)), "is empty"),
    ],
    ids=["truncated", "magic", "key length", "quantisation", "empty"],
)
def test_a_damaged_gguf_file_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    assert expected in refusal(open_checkpoint, tmp_path / "model.gguf")
