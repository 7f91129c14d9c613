"""Every family against two other readers of its weights: TransformerLens' matrices and a forward pass.

TransformerLens 4.3 has ``W_in``, ``W_gate`` and ``W_out`` for every dense family here; for experts it wraps the block
without them, so Mixtral is held against transformers' own tensors and forward pass.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Starcoder2Config

from audit.architectures import Architecture, family, identify
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.config import read_config
from audit.checkpoint.saving import save_model
from audit.errors import CheckpointError
from audit.metrics import weights_metrics
from audit.models.ffn import read_ffn
from audit.models.forward import Row, expert_keys, run
from audit.models.loading import load_model
from audit.models.pair import open_pair
from audit.weights.comparison import compare_weights
from tests.helpers import open_model
from tests.tiny import DENSE, FAMILIES, edit, edit_config, tokenizer, write_tiny

State = dict[str, torch.Tensor]
ROOT = Path(__file__).parents[2]
IDS = torch.arange(3, 40)[None]


def opened(path: Path, config: Path | None = None) -> tuple[Checkpoint, Architecture]:
    checkpoint = open_checkpoint(path)
    architecture = identify(checkpoint, read_config(config or path))
    assert architecture is not None
    return checkpoint, architecture


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = open_model(folder).model(IDS).logits
    return output


def as_torch_file(folder: Path, target: Path, state: State | None = None) -> Path:
    """The model folder with its weights as ``model.pt``."""
    target.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    torch.save(state or load_file(folder / "model.safetensors"), target / "model.pt")
    return target


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def bridge() -> Callable[[Path], Any]:
    """TransformerLens' loader of a model folder."""
    from transformer_lens.model_bridge import TransformerBridge

    return lambda folder: TransformerBridge.boot_transformers(str(folder), device="cpu")


@pytest.mark.parametrize("family", DENSE)
def test_our_matrices_are_those_of_transformer_lens(bridge: Callable[[Path], Any], tmp_path: Path, family: str) -> None:
    folder = write_tiny(tmp_path / family, family)
    lens = bridge(folder)
    for path in (folder, as_torch_file(folder, tmp_path / "pt")):
        checkpoint, architecture = opened(path)
        for layer in range(architecture.n_layers):
            ours, theirs = read_ffn(checkpoint, architecture, layer), lens.blocks[layer].mlp
            assert torch.equal(ours.W_in, theirs.W_in.T)
            assert torch.equal(ours.W_out, theirs.W_out)
            assert (ours.W_gate is None) is (theirs.W_gate is None)
            assert ours.W_gate is None or torch.equal(ours.W_gate, theirs.W_gate.T)
    with torch.no_grad():
        assert torch.allclose(lens(IDS), open_model(folder).model(IDS).logits, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_formats_run_as_the_model_that_was_saved(tmp_path: Path, family: str) -> None:
    folder = write_tiny(tmp_path / family, family, tie=False)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits
    assert torch.equal(logits(folder), expected)
    assert torch.equal(logits(as_torch_file(folder, tmp_path / "pt")), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_dict_from_memory_has_the_names_of_a_published_file(tmp_path: Path, family: str) -> None:
    folder = write_tiny(tmp_path / family, family, tie=False)
    held = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    dump = as_torch_file(folder, tmp_path / "dump", {name: tensor.clone() for name, tensor in held.items()})
    published, dumped = open_checkpoint(folder), open_checkpoint(dump)
    assert dumped.tensors.keys() == published.tensors.keys()
    for name, info in published.tensors.items():
        assert dumped.tensors[name].shape == info.shape
        assert torch.equal(dumped.tensor(name), published.tensor(name))
        assert torch.equal(dumped.rows(name, 1, 3), published.rows(name, 1, 3))
    assert torch.equal(logits(dump), logits(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_of_one_neuron_is_reported_with_its_layer_and_number(tmp_path: Path, family: str) -> None:
    base = write_tiny(tmp_path / "base", family)
    _, architecture = opened(base)
    roles = ("W_in", "W_gate", "W_out") if architecture.gated else ("W_in", "W_out")
    neuron = architecture.d_mlp - 9

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        for piece in architecture.pieces.get(name, ()):
            place = neuron - piece.first_neuron
            if piece.layer == 1 and piece.role in roles and 0 <= place < piece.count:
                tensor.select(piece.axis, piece.start + place).add_(1)
        return tensor

    pair = open_pair(base, edit(base, tmp_path / "unlearned", change))
    for role in roles:
        before, after = (
            read_ffn(opened.checkpoint, architecture, 1).__dict__[role] for opened in (pair.base, pair.unlearned)
        )
        assert (before != after).any(dim=1).nonzero().tolist() == [[neuron]]
    weights = compare_weights(pair, weights_metrics()).weights
    assert [(change.layer, change.neuron) for change in weights.top_neurons] == [(1, neuron)]
    assert [row.changed_key_rows for row in weights.per_layer] == [0, 1]
    assert weights.changed_tensors == (2 if family == "phi3" else len(roles))


# ---- experts


def test_the_neurons_of_experts_follow_one_another(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "mixtral", "mixtral")
    checkpoint, architecture = opened(folder)
    assert (architecture.n_experts, architecture.d_mlp) == (5, 40)
    experts = AutoModelForCausalLM.from_pretrained(folder).model.layers[1].mlp.experts
    mlp = read_ffn(checkpoint, architecture, 1)
    assert mlp.W_gate is not None
    for neuron in (0, 7, 8, 39):
        expert, place = divmod(neuron, 8)
        assert torch.equal(mlp.W_gate[neuron], experts.gate_up_proj[expert, place])
        assert torch.equal(mlp.W_in[neuron], experts.gate_up_proj[expert, 8 + place])
        assert torch.equal(mlp.W_out[neuron], experts.down_proj[expert, :, place])


def test_key_vectors_of_experts_times_value_vectors_are_what_the_layer_writes(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "mixtral", "mixtral")
    model, (checkpoint, architecture) = open_model(folder), opened(folder)
    for layer in range(2):
        experts = model.model.get_submodule(architecture.out_module.format(layer=layer))
        seen: list[tuple[tuple[torch.Tensor, ...], torch.Tensor]] = []
        handle = experts.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append((inputs, output)))
        (batch,) = run(model, [Row(tuple(IDS[0].tolist()), IDS.shape[1] - 1)])
        handle.remove()
        ((inputs, written),) = seen
        W_out = read_ffn(checkpoint, architecture, layer).W_out
        assert torch.allclose(expert_keys(experts, *inputs) @ W_out, written, atol=1e-5)
        assert torch.allclose(batch.keys[layer, 0] @ W_out, written[-1], atol=1e-5)
        assert (batch.keys[layer, 0].reshape(5, 8).any(dim=1)).sum() == 2  # two of five experts are routed to


def test_a_trained_model_of_experts_is_saved_under_the_files_names(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "mixtral", "mixtral", tie=False)
    model = open_model(folder)
    model.model.model.layers[1].mlp.experts.gate_up_proj[2, 11] += 1  # neuron 3 of expert 2, input half
    target = save_model(model.model, open_checkpoint(folder), tmp_path / "edited", {})
    base, edited = load_file(folder / "model.safetensors"), load_file(target / "model.safetensors")
    assert base.keys() == edited.keys()
    changed = {name: (base[name] != edited[name]).any(dim=-1).nonzero().tolist() for name in base}
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    assert {name: rows for name, rows in changed.items() if rows} == {name: [[3]]}
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(target)(IDS).logits, model.model(IDS).logits)


def test_a_missing_expert_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "mixtral", "mixtral")
    state = load_file(folder / "model.safetensors")
    name = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    del state[name]
    save_file(state, folder / "model.safetensors")
    assert f"missing: {name}" in refusal(folder)


def test_a_config_with_another_number_of_experts_is_refused(tmp_path: Path) -> None:
    folder = edit_config(write_tiny(tmp_path / "mixtral", "mixtral"), num_local_experts=8)
    assert "num_local_experts = 8, but the file has 5" in refusal(folder)


# ---- variants


FALCONS: dict[str, dict[str, Any]] = {
    "7b": {},
    "11B": {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    "40b": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "rw-1b": {"multi_query": False, "alibi": True, "bias": True, "parallel_attn": False},
}


@pytest.mark.parametrize("variant", FALCONS)
def test_every_falcon_runs(tmp_path: Path, variant: str) -> None:
    folder = write_tiny(tmp_path / "falcon", "falcon", **FALCONS[variant])
    with torch.no_grad():
        assert torch.equal(logits(folder), AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits)
    assert open_model(folder).alibi is (variant == "rw-1b")
    checkpoint = open_checkpoint(folder)
    alone = identify(checkpoint, None)
    assert alone == identify(checkpoint, read_config(folder))


def test_a_falcon_without_its_norms_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "falcon", "falcon")
    state = load_file(folder / "model.safetensors")
    save_file({name: it for name, it in state.items() if "input_layernorm" not in name}, folder / "model.safetensors")
    assert "missing: transformer.h.0.input_layernorm.weight" in refusal(folder)


def test_biases_that_a_family_may_lack(tmp_path: Path) -> None:
    for name, setting in (("opt", "enable_bias"), ("gpt_neox", "attention_bias")):
        folder = write_tiny(tmp_path / name, name, **{setting: False})
        assert logits(folder).isfinite().all()


@pytest.mark.parametrize(
    ("family", "config", "message_part"),
    [
        ("opt", {"word_embed_proj_dim": 8}, "project_in.weight: embeddings of another width than the model"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before = false: norms after attention and FFN"),
        ("bloom", {"slow_but_exact": True}, "slow_but_exact = true: the value matrix applied in slices"),
    ],
)
def test_a_variant_that_is_not_supported_is_refused_by_name(
    tmp_path: Path, family: str, config: dict[str, Any], message_part: str
) -> None:
    message = refusal(write_tiny(tmp_path / "model", family, **config))
    assert message_part in message
    assert message.endswith("which is not supported.")


@pytest.mark.parametrize(("family", "prefix"), [("bloom", "transformer."), ("opt", "model.")])
def test_published_files_without_a_prefix_get_it(tmp_path: Path, family: str, prefix: str) -> None:
    folder = write_tiny(tmp_path / family, family)
    _, expected = opened(folder)
    state = load_file(folder / "model.safetensors")
    save_file({name.removeprefix(prefix): tensor for name, tensor in state.items()}, folder / "model.safetensors")
    assert opened(folder)[1] == expected


def test_families_with_equal_names_are_distinguished_by_the_config_alone(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "mistral", "mistral")
    _, architecture = opened(folder)
    alone = identify(open_checkpoint(folder), None)
    assert alone is not None
    assert architecture.name == "mistral"
    assert alone.notes == ("without config.json the names read as llama; those of mistral are the same",)
    assert replace(alone, name="mistral", notes=()) == architecture


@pytest.mark.parametrize("family", ["mistral", "mixtral", "phi3"])
def test_a_window_without_a_list_of_layers_applies_to_all(tmp_path: Path, family: str) -> None:
    assert open_model(write_tiny(tmp_path / "m", family, sliding_window=8)).window == 8


def test_a_family_without_a_longest_input_takes_the_default_of_its_file(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "bloom", "bloom")
    assert open_model(folder).context == 2048
    edit_config(folder, seq_length=512)
    assert open_model(folder).context == 512
    assert json.loads((folder / "config.json").read_text())["seq_length"] == 512


# ---- a family that is not shipped


def test_the_family_of_the_contributors_guide_takes_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bridge: Callable[[Path], Any]
) -> None:
    model = tmp_path / "starcoder2"
    sizes = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Starcoder2Config(**sizes, num_key_value_heads=2, vocab_size=320, initializer_range=0.2)
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    assert identify(open_checkpoint(model), read_config(model)) is None

    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add a model family")[1].split("\n## ")[0]
    (block,) = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    folder = shutil.copytree(ROOT / "audit" / "architectures", tmp_path / "families")
    (folder / "starcoder2.toml").write_text(block, encoding="utf-8")
    monkeypatch.setattr(family, "files", lambda _: folder)
    family.families.cache_clear()
    try:
        checkpoint, architecture = opened(model)
        assert architecture == identify(checkpoint, None)
        lens = bridge(model)
        for layer in range(2):
            mlp = read_ffn(checkpoint, architecture, layer)
            assert torch.equal(mlp.W_in, lens.blocks[layer].mlp.W_in.T)
            assert torch.equal(mlp.W_out, lens.blocks[layer].mlp.W_out)
        ours = load_model(checkpoint, architecture, read_config(model), tokenizer())
        with torch.no_grad():
            assert torch.equal(ours.model(IDS).logits, AutoModelForCausalLM.from_pretrained(model).eval()(IDS).logits)
    finally:
        family.families.cache_clear()
