"""Adapters: PEFT's own merge is the reference; an adapter that PEFT would merge in part is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from audit.checkpoint import open_checkpoint
from audit.checkpoint.formats.adapter_config import read_settings
from audit.commands.compare import compare
from audit.errors import CheckpointError
from audit.metrics import weights_metrics
from audit.models.pair import open_pair
from audit.weights.scan import scan
from tests.tiny import write_tiny

LINEAR = ["q_proj", "down_proj"]
PLANS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"target_modules": LINEAR}),
    "rank-stabilised": ("llama", {"target_modules": LINEAR, "use_rslora": True}),
    "patterns": ("llama", {"target_modules": LINEAR, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}}),
    "one pattern": ("llama", {"target_modules": LINEAR, "alpha_pattern": {"layers.1.mlp.down_proj": 3}}),
    "dora": ("llama", {"target_modules": LINEAR, "use_dora": True}),
    "biases": ("qwen2", {"target_modules": ["q_proj"], "lora_bias": True}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "down_proj"]}),
    "replaced": ("llama", {"target_modules": LINEAR, "modules_to_save": ["lm_head"]}),
    "transposed": ("gpt2", {"target_modules": ["c_fc", "c_proj"], "fan_in_fan_out": True}),
    "transposed dora": ("gpt2", {"target_modules": ["c_fc"], "fan_in_fan_out": True, "use_dora": True}),
}


def trained(folder: Path, plan: str = "plain", dtype: torch.dtype = torch.float32) -> tuple[Path, Path, Any]:
    """A tiny base, an adapter over it with random factors as PEFT saves it, and the model PEFT merges."""
    family, settings = PLANS[plan]
    base = write_tiny(folder / "base", family=family, tie=plan not in ("replaced", "embedding"), dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True).to(torch.float32)
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            drawn = 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data.abs() + drawn.abs() if "magnitude" in name else drawn
    wrapped.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return base, folder / "adapter", wrapped.merge_and_unload()


@pytest.mark.parametrize("plan", PLANS)
def test_the_merged_tensors_are_those_peft_merges(plan: str, tmp_path: Path) -> None:
    base, adapter, expected = trained(tmp_path, plan)
    merged = open_checkpoint(adapter, open_checkpoint(base))
    reference = expected.state_dict()
    assert set(merged.tensors) <= set(reference)
    changed = 0
    for name in merged.tensors:
        torch.testing.assert_close(merged.tensor(name), reference[name], rtol=1e-5, atol=1e-6)
        changed += not torch.equal(merged.tensor(name), open_checkpoint(base).tensor(name))
    assert changed >= 2


def test_the_answers_are_those_of_the_wrapped_model(tmp_path: Path) -> None:
    base, adapter, expected = trained(tmp_path)
    pair = open_pair(base, adapter)
    running = pair.unlearned.load()
    ids = torch.tensor([running.tokenizer("What is the capital of Italy?")["input_ids"]])
    torch.testing.assert_close(running.model(ids).logits, expected(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_comparison_names_the_changed_matrices_alone_and_the_merge(tmp_path: Path) -> None:
    base, adapter, _ = trained(tmp_path)
    result = compare(base, adapter)
    changed = {row.name.split(".", 3)[-1] for row in result.weights.per_tensor if row.changed}
    assert changed == {"self_attn.q_proj.weight", "mlp.down_proj.weight"}
    assert result.subjects.unlearned.format == "adapter"
    assert any(
        "LoRA adapter of rank 4 on 4 matrices, merged in float32" in note for note in result.subjects.unlearned.notes
    )


def test_a_change_below_the_bases_rounding_is_still_seen(tmp_path: Path) -> None:
    base, adapter, _ = trained(tmp_path, dtype=torch.bfloat16)
    weights = adapter / "adapter_model.safetensors"
    save_file({name: 1e-3 * value for name, value in load_file(weights).items()}, weights)
    scanned = scan(open_pair(base, adapter), weights_metrics())
    assert scanned.weights.changed_tensors == 4
    assert all(row.dtype == "float32" for row in scanned.weights.per_tensor if row.changed)


def test_an_adapter_alone_is_not_a_model(tmp_path: Path) -> None:
    _, adapter, _ = trained(tmp_path)
    with pytest.raises(CheckpointError, match="not a model without its base"):
        open_checkpoint(adapter)


def test_a_folder_with_a_whole_model_is_that_model(tmp_path: Path) -> None:
    base, adapter, _ = trained(tmp_path)
    shutil.copy(base / "model.safetensors", adapter)
    assert open_checkpoint(adapter, open_checkpoint(base)).format == "safetensors"


def test_an_adapter_on_an_embedding_that_is_also_the_head_is_refused(tmp_path: Path) -> None:
    _, adapter, _ = trained(tmp_path, "embedding")
    tied = write_tiny(tmp_path / "tied")
    with pytest.raises(CheckpointError, match="the merge would change the head too"):
        open_checkpoint(adapter, open_checkpoint(tied))


def test_an_adapter_of_another_size_or_depth_is_refused(tmp_path: Path) -> None:
    _, adapter, _ = trained(tmp_path)
    wider = write_tiny(tmp_path / "wider", intermediate_size=44)
    with pytest.raises(CheckpointError, match=r"down_proj.*the adapter changes \[16, 40\], the base has \[16, 44\]"):
        open_checkpoint(adapter, open_checkpoint(wider))
    shallow = write_tiny(tmp_path / "shallow", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match="which the base does not have"):
        open_checkpoint(adapter, open_checkpoint(shallow))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "of type 'IA3'; only LORA"),
        ({"init_lora_weights": "pissa"}, "initialised by 'pissa'"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters is not supported"),
        ({"r": 0}, "rank 0"),
        ({"r": 3}, "not of rank 3"),
        ({"lora_alpha": None}, "alpha None"),
        ({"rank_pattern": {"(a+)+$": 4}}, "not a module's name"),
        ({"alpha_pattern": {"q_proj": 0}}, "not a positive number"),
        ({"rank_pattern": {"q_proj": 4.5}}, "not a positive whole number"),
        ({"use_dora": True}, "not a DoRA module"),
    ],
)
def test_settings_that_change_the_merge_are_supported_or_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    base, adapter, _ = trained(tmp_path)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message.replace("(", r"\(").replace("+", r"\+").replace("$", r"\$")):
        open_checkpoint(adapter, open_checkpoint(base))


def test_without_the_scaling_the_merge_would_be_another_model(tmp_path: Path) -> None:
    """What the settings say matters: the same factors at another alpha are another update."""
    base, adapter, _ = trained(tmp_path)
    before = open_checkpoint(adapter, open_checkpoint(base)).tensor("model.layers.0.mlp.down_proj.weight")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 4}))
    after = open_checkpoint(adapter, open_checkpoint(base)).tensor("model.layers.0.mlp.down_proj.weight")
    original = open_checkpoint(base).tensor("model.layers.0.mlp.down_proj.weight")
    torch.testing.assert_close(before - original, 2 * (after - original), rtol=1e-3, atol=1e-6)
    assert read_settings(path).scaling("q_proj") == 1.0


def test_half_a_factor_and_a_stray_tensor_are_refused(tmp_path: Path) -> None:
    base, adapter, _ = trained(tmp_path)
    weights = adapter / "adapter_model.safetensors"
    state = load_file(weights)
    half = {name: value for name, value in state.items() if "0.mlp.down_proj.lora_B" not in name}
    save_file(half, weights)
    with pytest.raises(CheckpointError, match="lacks the rest"):
        open_checkpoint(adapter, open_checkpoint(base))
    save_file({**state, "base_model.model.model.nowhere.weight": torch.ones(2)}, weights)
    with pytest.raises(CheckpointError, match=r"no counterpart in the base: model\.nowhere\.weight"):
        open_checkpoint(adapter, open_checkpoint(base))
