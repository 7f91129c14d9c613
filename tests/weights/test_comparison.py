"""The comparison of weights: what counts as changed, digests, values that are not finite, neurons and their theme."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audit.checkpoint import combine_digests, open_checkpoint, tensor_digest
from audit.metrics import weights_metrics
from audit.models.loading import load_tokenizer
from audit.models.pair import open_pair
from audit.weights.comparison import compare_weights
from audit.weights.scan import WeightScan
from tests.tiny import edit, edit_config, write_tiny

Edit = Callable[[str, torch.Tensor], torch.Tensor]
HEAD = "lm_head.weight"
VALUES = "model.layers.1.mlp.down_proj.weight"


def scan_edited(folder: Path, change: Edit, *, tokenizer: bool = False, **model: object) -> WeightScan:
    base = write_tiny(folder / "base", **model)
    unlearned = edit(base, folder / "unlearned", change)
    return compare_weights(open_pair(base, unlearned), weights_metrics(), load_tokenizer(base) if tokenizer else None)


def noise(scale: float) -> Edit:
    generator = torch.Generator().manual_seed(5)
    return lambda name, tensor: tensor + scale * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)


def one_neuron(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if name == VALUES:
        tensor = tensor.clone()
        tensor[:, 3] *= 0.5
    return tensor


def test_identical_weights_are_recognised(tmp_path: Path) -> None:
    scanned = scan_edited(tmp_path, lambda name, tensor: tensor)
    assert scanned.identical
    assert scanned.weights.changed_tensors == 0
    assert scanned.digests["base"] == scanned.digests["unlearned"]
    assert scanned.weights.top_neurons == []


def test_a_tied_head_that_is_stored_twice_is_identical(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")
    state = load_file(base / "model.safetensors")
    twice = shutil.copytree(base, tmp_path / "twice")
    save_file(state | {HEAD: state["model.embed_tokens.weight"].clone()}, twice / "model.safetensors")
    for one, other in ((base, twice), (twice, base)):
        scanned = compare_weights(open_pair(one, other), weights_metrics())
        assert scanned.identical
        assert scanned.digests["base"] != scanned.digests["unlearned"]


def test_a_head_that_differs_from_the_embedding_is_a_parameter_of_its_own(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")
    state = load_file(base / "model.safetensors")
    untied = shutil.copytree(base, tmp_path / "untied")
    save_file(state | {HEAD: 2 * state["model.embed_tokens.weight"]}, untied / "model.safetensors")
    assert not compare_weights(open_pair(base, untied), weights_metrics()).identical


def test_a_vocabulary_that_grew_is_not_identical_although_all_shared_rows_are(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")

    def grow(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor[:16]]) if name == "model.embed_tokens.weight" else tensor

    grown = edit_config(edit(base, tmp_path / "grown", grow), vocab_size=336)
    scanned = compare_weights(open_pair(base, grown), weights_metrics())
    assert scanned.weights.changed_tensors == 0
    assert not scanned.identical


def test_one_halved_value_vector_is_the_only_change(tmp_path: Path) -> None:
    scanned = scan_edited(tmp_path, one_neuron)
    assert not scanned.identical
    assert [row.name for row in scanned.weights.per_tensor if row.changed] == [VALUES]
    (neuron,) = scanned.weights.top_neurons
    assert (neuron.layer, neuron.neuron) == (1, 3)
    assert neuron.relative_change == pytest.approx(0.5)
    assert neuron.cosine == pytest.approx(1.0)
    assert [layer.changed_value_vectors for layer in scanned.weights.per_layer] == [0, 1]
    assert scanned.digests["base"] != scanned.digests["unlearned"]


def test_a_neuron_of_gpt2_has_the_same_index_although_its_matrix_is_transposed(tmp_path: Path) -> None:
    def halve(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name == "transformer.h.1.mlp.c_proj.weight":
            tensor = tensor.clone()
            tensor[3] *= 0.5
        return tensor

    scanned = scan_edited(tmp_path, halve, family="gpt2")
    (neuron,) = scanned.weights.top_neurons
    assert (neuron.layer, neuron.neuron) == (1, 3)


def test_tensor_numbers_agree_with_a_plain_computation(tmp_path: Path) -> None:
    scanned = scan_edited(tmp_path, noise(1e-2))
    base, unlearned = (open_checkpoint(tmp_path / name) for name in ("base", "unlearned"))
    for row in scanned.weights.per_tensor:
        before, after = base.tensor(row.name).double(), unlearned.tensor(row.name).double()
        delta = after - before
        assert row.l2 == pytest.approx(float(delta.norm()), rel=1e-5)
        assert row.relative_change == pytest.approx(float(delta.norm() / before.norm()), rel=1e-5)
        expected = float((before * after).sum() / before.norm() / after.norm())
        assert row.cosine == pytest.approx(expected, abs=1e-7)
        if before.dim() == 2:
            exact = torch.linalg.svdvals(delta)
            assert row.singular_values[0] == pytest.approx(float(exact[0]), rel=1e-3)
            assert row.stable_rank == pytest.approx(float((exact**2).sum() / exact[0] ** 2), rel=2e-3)


def test_digests_are_those_of_the_tensors_alone(tmp_path: Path) -> None:
    scanned = scan_edited(tmp_path, one_neuron)
    checkpoint = open_checkpoint(tmp_path / "unlearned")
    digests = [(name, tensor_digest(name, checkpoint.tensor(name))) for name in checkpoint.tensors]
    assert scanned.digests["unlearned"] == combine_digests(digests)


def test_tensors_with_values_that_are_not_finite_are_named_and_the_pass_completes(tmp_path: Path) -> None:
    def broken(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name == VALUES:
            tensor = tensor.clone()
            tensor[0, 0] = float("nan")
        return tensor

    scanned = scan_edited(tmp_path, broken)
    assert scanned.nonfinite == {"base": [], "unlearned": [VALUES]}
    (row,) = (row for row in scanned.weights.per_tensor if row.name == VALUES)
    assert row.l2 is None


def test_a_difference_by_rounding_alone_counts_as_unchanged(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base", dtype=torch.float32)
    rounded = edit(base, tmp_path / "unlearned", lambda name, tensor: tensor.to(torch.bfloat16))
    scanned = compare_weights(open_pair(base, rounded), weights_metrics())
    assert scanned.weights.changed_tensors == 0
    assert {row.dtype for row in scanned.weights.per_tensor} == {"bfloat16"}
    assert (scanned.identical, scanned.equal_at_coarser) == (False, "bfloat16")
    changed = edit(base, tmp_path / "changed", lambda name, tensor: one_neuron(name, tensor).to(torch.bfloat16))
    assert compare_weights(open_pair(base, changed), weights_metrics()).equal_at_coarser is None


def test_a_changed_neuron_is_shown_in_words(tmp_path: Path) -> None:
    scanned = scan_edited(tmp_path, one_neuron, tokenizer=True)
    (neuron,) = scanned.weights.top_neurons
    assert neuron.tokens_before
    assert neuron.tokens_before == neuron.tokens_after  # halving a vector keeps its order of tokens


def test_noise_everywhere_has_no_theme(tmp_path: Path) -> None:
    scanned = scan_edited(tmp_path, noise(1e-2), tokenizer=True, intermediate_size=64)
    assert scanned.weights.themes == []


def test_a_planted_theme_is_found(tmp_path: Path) -> None:
    """Twenty neurons moved along one token's direction, the others by noise of the same size."""
    base = write_tiny(tmp_path / "base", intermediate_size=64)
    direction = open_checkpoint(base).tensor("model.embed_tokens.weight")[314]
    direction = direction / direction.norm()
    spread = noise(1e-3)

    def plant(name: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor = spread(name, tensor)
        if name.endswith("down_proj.weight"):
            tensor[:, :10] += 0.5 * direction[:, None]
        return tensor

    tokenizer = load_tokenizer(base)
    scanned = compare_weights(open_pair(base, edit(base, tmp_path / "unlearned", plant)), weights_metrics(), tokenizer)
    assert scanned.weights.themes[0] == "Italy"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_tensors_read_in_blocks_give_what_whole_ones_give(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_tiny(tmp_path / "base", family=family)
    unlearned = edit(base, tmp_path / "unlearned", noise(1e-2))
    whole = compare_weights(open_pair(base, unlearned), weights_metrics())
    monkeypatch.setattr("audit.weights.blocks.WHOLE_ELEMENTS", 100)
    monkeypatch.setattr("audit.weights.blocks.BLOCK_ELEMENTS", 100)
    blocks = compare_weights(open_pair(base, unlearned), weights_metrics())
    assert blocks.digests == whole.digests
    for row, expected in zip(blocks.weights.per_tensor, whole.weights.per_tensor, strict=True):
        same = {"singular_values", "stable_rank", "cosine", "l2", "relative_change"}
        assert row.model_dump(exclude=same) == expected.model_dump(exclude=same)
        assert row.l2 == pytest.approx(expected.l2, rel=1e-6)
        assert (row.stable_rank or 0) == pytest.approx(expected.stable_rank or 0, rel=1e-2)
    for layer, its in zip(blocks.weights.per_layer, whole.weights.per_layer, strict=True):
        assert (layer.changed_value_vectors, layer.changed_key_rows) == (
            its.changed_value_vectors,
            its.changed_key_rows,
        )
    places = [[(row.layer, row.neuron) for row in comparison.weights.top_neurons] for comparison in (blocks, whole)]
    assert places[0] == places[1]
