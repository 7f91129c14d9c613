"""Folders and shards: an ambiguous folder is refused, and nothing outside the folder is read.

Where transformers loads such a folder without an exception, the test shows it: with transformers' choice, an audit
would report on weights that the user did not mean.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from audit.checkpoint import open_checkpoint
from audit.errors import CheckpointError
from tests.checkpoint.shards import FIRST, INDEX, PROBE, SECOND, edit_index, save_shards, weight_map
from tests.tiny import write_tiny


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = write_tiny(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return save_shards(folder, state)


def transformers_reads(folder: Path) -> torch.Tensor:
    """The probe tensor as transformers loads it, without an exception."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return model.state_dict()[PROBE].detach().clone()


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_read_as_one_model(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    assert [path.name for path in checkpoint.files] == [FIRST, SECOND]
    assert [record.name for record in checkpoint.file_records()] == [FIRST, SECOND]
    assert set(checkpoint.tensors) == set(weight_map(sharded))
    assert torch.equal(checkpoint.tensor(PROBE), transformers_reads(sharded))
    assert checkpoint.tensors[PROBE].file == weight_map(sharded)[PROBE]


def test_torch_shards_read_as_one_model(tmp_path: Path) -> None:
    state = {name: torch.full((3,), float(i)) for i, name in enumerate("abcd")}
    checkpoint = open_checkpoint(save_shards(tmp_path / "model", state, "bin"))
    assert checkpoint.format == "torch"
    assert all(torch.equal(checkpoint.tensor(name), state[name]) for name in state)


def test_an_index_that_omits_a_shard_is_refused_with_the_shard(sharded: Path) -> None:
    true = open_checkpoint(sharded).tensor(PROBE)
    forgotten = weight_map(sharded)[PROBE]
    edit_index(sharded, **{name: None for name, shard in weight_map(sharded).items() if shard == forgotten})
    assert not torch.equal(transformers_reads(sharded), true)  # random weights, and a line in a log
    message = refusal(sharded)
    assert "shards that the index does not name" in message
    assert forgotten in message


def test_an_index_that_names_the_wrong_shard_is_refused_with_the_tensor(sharded: Path) -> None:
    wrong = FIRST if weight_map(sharded)[PROBE] == SECOND else SECOND
    true = open_checkpoint(sharded).tensor(PROBE)
    edit_index(sharded, **{PROBE: wrong})
    assert torch.equal(transformers_reads(sharded), true)  # loads, although the index is wrong
    message = refusal(sharded)
    assert f"{PROBE} (said to be in {wrong}, is in" in message


def test_a_tensor_that_the_index_omits_is_refused(sharded: Path) -> None:
    edit_index(sharded, **{PROBE: None})
    assert f"{PROBE} (in " in refusal(sharded)


def test_a_tensor_only_the_index_has_is_refused(sharded: Path) -> None:
    edit_index(sharded, **{"model.ghost": FIRST})
    assert f"model.ghost (said to be in {FIRST}, in no shard)" in refusal(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    other = FIRST if weight_map(sharded)[PROBE] == SECOND else SECOND
    save_file({**load_file(sharded / other), PROBE: torch.zeros(16, 40)}, sharded / other, metadata={"format": "pt"})
    assert f"{PROBE} is in {FIRST} and in {SECOND}" in refusal(sharded)


@pytest.mark.parametrize("how", ["relative", "absolute"])
def test_an_index_that_leaves_the_folder_is_refused(tmp_path: Path, sharded: Path, how: str) -> None:
    shard = weight_map(sharded)[PROBE]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    substitute = {name: torch.full_like(value, 9.0) for name, value in load_file(sharded / shard).items()}
    save_file(substitute, elsewhere / shard, metadata={"format": "pt"})
    (sharded / shard).unlink()
    target = f"../elsewhere/{shard}" if how == "relative" else str(elsewhere / shard)
    edit_index(sharded, **{name: target for name, its in weight_map(sharded).items() if its == shard})
    assert (transformers_reads(sharded) == 9.0).all()  # the outside file, without a message
    message = refusal(sharded)
    assert "which is not a file name in this folder" in message
    assert target in message


@pytest.mark.parametrize("value", ["", ".", "..", "sub/x.safetensors", "..\\x.safetensors", "x\0.safetensors", 7, None])
def test_an_index_value_that_is_not_a_file_name_is_refused(sharded: Path, value: object) -> None:
    index = {"weight_map": {**weight_map(sharded), PROBE: value}}
    (sharded / INDEX).write_text(json.dumps(index))
    assert "which is not a file name in this folder" in refusal(sharded)


def test_a_shard_linked_from_outside_is_refused_and_one_linked_inside_is_read(tmp_path: Path, sharded: Path) -> None:
    (sharded / SECOND).rename(tmp_path / "outside.safetensors")
    (sharded / SECOND).symlink_to(tmp_path / "outside.safetensors")
    transformers_reads(sharded)  # follows the link
    assert "outside the folder" in refusal(sharded)
    (sharded / SECOND).unlink()
    (sharded / "blobs").mkdir()
    (tmp_path / "outside.safetensors").rename(sharded / "blobs" / "second")
    (sharded / SECOND).symlink_to("blobs/second")
    assert PROBE in open_checkpoint(sharded).tensors


def test_the_hub_caches_own_blob_links_are_followed(tmp_path: Path, sharded: Path) -> None:
    blobs, snapshot = tmp_path / "models--x--y" / "blobs", tmp_path / "models--x--y" / "snapshots" / "0123abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for entry in sharded.iterdir():
        shutil.move(entry, blobs / entry.name)
        (snapshot / entry.name).symlink_to(f"../../blobs/{entry.name}")
    assert PROBE in open_checkpoint(snapshot).tensors


def test_all_absent_shards_are_listed_at_once(sharded: Path) -> None:
    (sharded / FIRST).unlink()
    (sharded / SECOND).unlink()
    (sharded / SECOND).symlink_to("nowhere")
    message = refusal(sharded)
    assert "2 of 2 weight files are absent" in message
    assert FIRST in message
    assert SECOND in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ("{", "not valid JSON"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "the key 'a' appears twice"),
    ],
)
def test_a_malformed_index_is_refused(sharded: Path, content: str, message: str) -> None:
    (sharded / INDEX).write_text(content)
    assert message in refusal(sharded)


def test_a_huge_index_is_refused_unread(sharded: Path) -> None:
    with (sharded / INDEX).open("wb") as stream:
        stream.truncate(500_000_000)  # sparse: takes no room
    assert "500,000,000 bytes are too many for an index" in refusal(sharded)


def test_a_single_file_next_to_an_index_is_ambiguous(tmp_path: Path, sharded: Path) -> None:
    other = write_tiny(tmp_path / "other", seed=1)
    shutil.copy(other / "model.safetensors", sharded)
    assert torch.equal(transformers_reads(sharded), load_file(other / "model.safetensors")[PROBE])  # the file wins
    assert "ambiguous: both model.safetensors and" in refusal(sharded)
    assert open_checkpoint(sharded / "model.safetensors").files == (sharded / "model.safetensors",)


def test_shards_without_an_index_are_refused(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    assert "shards without their index" in refusal(sharded)


def test_safetensors_is_preferred_to_a_torch_file_with_a_note(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    torch.save({PROBE: torch.zeros(16, 40)}, folder / "pytorch_model.bin")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.format == "safetensors"
    used, ignored = (
        f"{path.name} (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}, {path.stat().st_size:,} bytes)"
        for path in (folder / "model.safetensors", folder / "pytorch_model.bin")
    )
    assert checkpoint.notes == (f"used {used}; ignored {ignored}",)


@pytest.mark.parametrize("name", ["unlearned.pt", "pytorch_model.bin", "step_100.pth", "weights.safetensors"])
def test_a_folder_with_one_weight_file_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    state = {"a": torch.ones(2)}
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    torch.save({"lr": 1}, tmp_path / "training_args.bin")
    torch.save({"lr": 1}, tmp_path / "optimizer.pt")
    torch.save({"lr": 1}, tmp_path / "rng_state_0.pth")
    assert torch.equal(open_checkpoint(tmp_path).tensor("a"), torch.ones(2))


def test_several_weight_files_without_an_index_are_ambiguous(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        torch.save({"a": torch.ones(2)}, tmp_path / name)
    assert "ambiguous: 2 weight files (a.pt, b.pt)" in refusal(tmp_path)


def test_a_folder_without_weights_and_an_adapter_alone_are_refused(tmp_path: Path) -> None:
    assert "no weights in this folder" in refusal(tmp_path)
    save_file({"a": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "an adapter, which is not a model without its base" in refusal(tmp_path)
