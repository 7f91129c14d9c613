"""Pairs: versions of one model are paired and what differs is said; anything else is refused with what differs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audit.errors import AuditError, CheckpointError, IncomparableError, ModelError
from audit.models.pair import View, open_pair
from tests.tiny import edit, edit_config, write_tiny

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def lone(folder: Path) -> Path:
    """The weights of ``folder`` without its config."""
    (folder / "config.json").unlink()
    return folder


def refusal(base: Path, unlearned: Path, retained: Path | None = None) -> str:
    with pytest.raises(IncomparableError) as caught:
        open_pair(base, unlearned, retained)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_two_versions_of_a_model_share_every_tensor_and_need_no_note(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")
    unlearned = edit(base, tmp_path / "unlearned", lambda name, tensor: tensor + 1 if "down" in name else tensor)
    pair = open_pair(base, unlearned)
    assert pair.architecture is not None
    assert pair.architecture.name == "llama"
    assert set(pair.shared) == set(pair.base.checkpoint.tensors) == set(pair.unlearned.checkpoint.tensors)
    assert (pair.views, pair.notes, pair.retained) == ({}, (), None)
    assert pair.base.config is not None
    changed = [name for name in pair.shared if not torch.equal(*pair.tensors(name))]
    assert changed == [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(2)]


def test_a_retained_model_is_opened_and_checked_like_the_others(tmp_path: Path) -> None:
    base, retained = write_tiny(tmp_path / "base"), write_tiny(tmp_path / "retained", seed=2)
    pair = open_pair(base, base, retained)
    assert pair.retained is not None
    assert pair.retained.checkpoint.path == retained
    deeper = write_tiny(tmp_path / "deeper", num_hidden_layers=3)
    assert "layers 2 against 3" in refusal(base, base, deeper)


def test_a_reference_may_be_any_language_model_and_is_asked_with_its_own_tokenizer(tmp_path: Path) -> None:
    base, other = write_tiny(tmp_path / "base"), write_tiny(tmp_path / "other", "gpt2")
    pair = open_pair(base, base, reference=other)
    assert pair.reference is not None
    assert pair.reference.require_architecture().name == "gpt2"
    assert pair.reference.tokenizer_files.path == other
    assert "reference: asked with its own tokenizer" in pair.notes
    assert set(pair.models) == {"base", "unlearned"}, "it is not a version of the base"
    assert open_pair(base, base).reference is None


def test_a_reference_without_config_or_tokenizer_that_is_a_version_of_the_base_borrows_them(tmp_path: Path) -> None:
    base, bare = write_tiny(tmp_path / "base"), write_tiny(tmp_path / "bare", seed=1)
    for file in [bare / "config.json", *bare.glob("tokenizer*")]:
        file.unlink()
    reference = open_pair(base, base, reference=bare).reference
    assert reference is not None
    assert reference.config is not None
    assert reference.tokenizer_files.path == base


def test_a_reference_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")
    torch.save({"encoder.weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(AuditError, match=r"other\.pt"):
        open_pair(base, base, reference=tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hidden_layers": 3}, "layers 2 against 3"),
        ({"intermediate_size": 44}, "d_mlp 40 against 44"),
        ({"hidden_size": 32, "intermediate_size": 44}, "d_model 16 against 32, d_mlp 40 against 44"),
        ({"family": "qwen2"}, "architecture llama against qwen2"),
        ({"family": "gpt2"}, "architecture llama against gpt2, d_mlp 40 against 64"),
        ({"num_key_value_heads": 4}, "k_proj.weight [8, 16] against [16, 16]"),
        ({"attention_bias": True}, "q_proj.bias absent against [16]"),
    ],
)
def test_other_models_are_refused_with_a_table_of_differences(
    tmp_path: Path, settings: dict[str, int | str], message: str
) -> None:
    base = write_tiny(tmp_path / "base")
    other = write_tiny(tmp_path / "other", **settings)  # type: ignore[arg-type]
    for config in ("with", "without"):
        if config == "without":
            base, other = lone(base), lone(other)
        text = refusal(base, other)
        assert message in text
        assert str(base) in text
        assert str(other) in text


def test_a_grown_vocabulary_is_compared_on_the_rows_both_have(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base", tie=False)
    grown = write_tiny(tmp_path / "grown", tie=False, vocab_size=384)
    for pair in (open_pair(base, grown), open_pair(grown, base)):
        assert pair.views == {EMBEDDING: View(EMBEDDING, EMBEDDING, 320), HEAD: View(HEAD, HEAD, 320)}
        assert not {EMBEDDING, HEAD} & set(pair.shared)
        before, after = pair.tensors(HEAD)
        assert before.shape == after.shape == (320, 16)
        assert torch.equal(after, pair.unlearned.checkpoint.tensor(HEAD)[:320])
        assert "the first 320 rows are compared" in pair.notes[0]


def test_an_untied_head_is_compared_with_the_embedding_it_was(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")
    untied = write_tiny(tmp_path / "untied", tie=False)
    pair = open_pair(base, untied)
    assert {role: model.architecture and model.architecture.tied for role, model in pair.models.items()} == {
        "base": True,
        "unlearned": False,
    }
    assert pair.views == {HEAD: View(EMBEDDING, HEAD, 320)}
    before, after = pair.tensors(HEAD)
    assert torch.equal(before, pair.base.checkpoint.tensor(EMBEDDING))
    assert torch.equal(after, pair.unlearned.checkpoint.tensor(HEAD))
    assert pair.notes == (
        "base uses its embedding as head; it is compared with the head that unlearned has of its own",
    )


def test_a_tied_head_that_one_file_stores_twice_is_no_difference(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")
    state = load_file(base / "model.safetensors")
    twice = edit(base, tmp_path / "twice", lambda name, tensor: tensor)
    save_file({**state, HEAD: state[EMBEDDING].clone()}, twice / "model.safetensors", {"format": "pt"})
    pair = open_pair(base, twice)
    assert pair.views == {}
    assert pair.notes == ("unlearned: lm_head.weight is stored although it equals the embedding",)


def test_different_number_formats_are_said(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")
    halved = edit_config(write_tiny(tmp_path / "half", dtype=torch.bfloat16), dtype="float32")
    pair = open_pair(base, halved)
    assert len(pair.shared) == len(pair.base.checkpoint.tensors)
    assert pair.notes == (
        "unlearned: config.json says float32, the weights are stored as bfloat16; the file's format is used",
        "base is stored as float32, unlearned as bfloat16: the coarser one's rounding reads as change",
    )


def test_a_model_without_config_borrows_one_and_a_given_config_rules(tmp_path: Path) -> None:
    base, unlearned = write_tiny(tmp_path / "base"), lone(write_tiny(tmp_path / "unlearned", seed=1))
    for pair in (open_pair(base, unlearned), open_pair(unlearned, base)):
        assert pair.base.config is not None
        assert pair.base.config["model_type"] == "llama"
    wrong = edit_config(write_tiny(tmp_path / "wrong"), num_hidden_layers=5)
    with pytest.raises(CheckpointError, match="num_hidden_layers = 5"):
        open_pair(base, unlearned, config=wrong)
    with pytest.raises(ModelError, match="no such config"):
        open_pair(base, unlearned, config=tmp_path / "nowhere")
    assert open_pair(unlearned, unlearned).base.config is None


def test_any_other_state_dicts_are_compared_by_tensor(tmp_path: Path) -> None:
    shared = {"encoder.weight": torch.ones(3, 3), "encoder.bias": torch.ones(3)}
    torch.save({**shared, "old.weight": torch.ones(2), "resized": torch.ones(2)}, tmp_path / "base.pt")
    torch.save({**shared, "resized": torch.ones(4)}, tmp_path / "unlearned.pt")
    pair = open_pair(tmp_path / "base.pt", tmp_path / "unlearned.pt")
    assert pair.architecture is None
    assert pair.shared == ("encoder.weight", "encoder.bias")
    assert [note.partition(":")[0] for note in pair.notes[:2]] == ["base", "unlearned"]
    assert "of no supported family" in pair.notes[0]
    assert pair.notes[2:] == (
        "2 tensors of base have no counterpart of the same name and shape: old.weight, resized",
        "1 tensors of unlearned have no counterpart of the same name and shape: resized",
    )


def test_state_dicts_with_nothing_in_common_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": torch.ones(1)}, tmp_path / "base.pt")
    torch.save({"a": torch.ones(3), "c": torch.ones(1)}, tmp_path / "unlearned.pt")
    message = refusal(tmp_path / "base.pt", tmp_path / "unlearned.pt")
    assert "no tensor has the same name and shape in both (a, b against a, c)" in message


def test_a_model_against_a_part_of_one_is_refused(tmp_path: Path) -> None:
    base = lone(write_tiny(tmp_path / "base"))
    torch.save({"encoder.weight": torch.ones(2)}, tmp_path / "other.pt")
    assert "architecture llama against unknown" in refusal(base, tmp_path / "other.pt")


def test_files_of_two_formats_pair_up(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")
    state = {f"module.{name}": tensor for name, tensor in load_file(base / "model.safetensors").items()}
    torch.save({"model": state, "optimizer": {}}, tmp_path / "unlearned.pt")
    pair = open_pair(base, tmp_path / "unlearned.pt")
    assert all(torch.equal(*pair.tensors(name)) for name in pair.shared)
    assert len(pair.shared) == len(state)
