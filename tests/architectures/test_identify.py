"""Families: a whole model is recognised by its tensors, anything less is refused with the tensor's name.

The refusals matter because transformers loads most of these files and fills gaps with random numbers: tests that call
``transformers_loads`` show it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, StableLmConfig

from audit.architectures import Architecture, families, identify, why_unknown
from audit.checkpoint import open_checkpoint
from audit.checkpoint.config import read_config
from audit.errors import CheckpointError
from tests.tiny import DENSE, FAMILIES, VOCABULARY, edit_config, write_tiny

State = dict[str, torch.Tensor]
UNGATED = ("bloom", "falcon", "gpt2", "gpt_neox", "gptj", "opt")
LIKE = {"mistral": "llama"}
"""Families whose tensors another one's names fit as well."""
ALIKE = "without config.json the names read as llama; those of mistral are the same"
DOWN = "model.layers.1.mlp.down_proj.weight"


def identified(folder: Path, *, config: bool = True) -> Architecture:
    architecture = identify(open_checkpoint(folder), read_config(folder) if config else None)
    assert architecture is not None
    return architecture


def rewrite(folder: Path, change: Callable[[State], Any]) -> Path:
    """Apply ``change`` to the state dict in place and save it again."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def refusal(folder: Path, *, config: bool = True) -> str:
    with pytest.raises(CheckpointError) as caught:
        identified(folder, config=config)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(folder))
    return str(caught.value)


def transformers_loads(folder: Path) -> State:
    """transformers' state dict; that this does not raise is the point."""
    state: State = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    return state


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "model")


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("config", [True, False], ids=["config", "names alone"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_recognised_with_its_sizes(tmp_path: Path, family: str, config: bool, tie: bool) -> None:
    folder = write_tiny(tmp_path / "model", family, tie=tie)
    architecture = identified(folder, config=config)
    d_mlp = 64 if family in ("gpt2", "bloom") else 40
    assert architecture.name == (LIKE.get(family, family) if not config else family)
    assert (architecture.n_layers, architecture.d_model, architecture.d_mlp) == (2, 16, d_mlp)
    assert architecture.d_vocab == VOCABULARY
    assert architecture.tied is tie
    assert architecture.gated is (family not in UNGATED)
    assert set(architecture.roles) == set(open_checkpoint(folder).tensors)
    assert len(architecture.names("W_out")) == (10 if family == "mixtral" else 2)
    assert len(architecture.names("head")) == (0 if tie else 1)
    assert architecture.notes == ((ALIKE,) if not config and family in ("llama", *LIKE) else ())


def test_every_shipped_family_file_is_tested_here() -> None:
    assert {family.name for family in families()} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_modules_named_are_modules_of_the_model(tmp_path: Path, family: str) -> None:
    folder = write_tiny(tmp_path / "model", family)
    architecture, model = identified(folder), AutoModelForCausalLM.from_pretrained(folder)
    for layer in range(architecture.n_layers):
        model.get_submodule(architecture.block_module.format(layer=layer))
        out = model.get_submodule(architecture.out_module.format(layer=layer))
        assert family not in DENSE or out.weight.shape[1 - architecture.neuron_axis["W_out"]] == architecture.d_model
    assert model.get_submodule(architecture.head_module) is model.get_output_embeddings()
    model.get_submodule(architecture.final_norm_module)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_norm_offset_is_what_the_models_norm_adds(tmp_path: Path, family: str) -> None:
    folder = write_tiny(tmp_path / "model", family)
    architecture, model = identified(folder), AutoModelForCausalLM.from_pretrained(folder)
    norm = model.get_submodule(architecture.final_norm_module)
    if norm_has_weight := family != "olmo":
        torch.nn.init.constant_(norm.weight, 1.0 - architecture.norm_offset)
    assert norm_has_weight is any(role == "final_norm" for role, _ in architecture.roles.values())
    x = torch.tensor([[[1.0, -1.0] * 8]])  # mean 0, mean square 1: a norm of scale 1 leaves it as it is
    assert torch.allclose(norm(x), x, atol=1e-4)


def test_layers_are_in_numerical_order_beyond_ten(tmp_path: Path) -> None:
    architecture = identified(write_tiny(tmp_path / "model", num_hidden_layers=12))
    assert architecture.names("W_out")[2] == "model.layers.2.mlp.down_proj.weight"
    assert architecture.names("W_out")[11] == "model.layers.11.mlp.down_proj.weight"
    with pytest.raises(LookupError, match="no 'W_up' in llama; its roles are"):
        architecture.names("W_up")


@pytest.mark.parametrize("config", [True, False])
def test_a_missing_tensor_is_refused_by_name(llama: Path, config: bool) -> None:
    true = load_file(llama / "model.safetensors")[DOWN]
    rewrite(llama, lambda state: state.pop(DOWN))
    assert not torch.equal(transformers_loads(llama)[DOWN], true)  # random numbers
    assert f"missing: {DOWN}" in refusal(llama, config=config)


def test_many_missing_tensors_are_counted(llama: Path) -> None:
    rewrite(llama, lambda state: [state.pop(name) for name in list(state) if ".layers.0." in name])
    assert "and 4 more" in refusal(llama)


def test_a_misnamed_tensor_is_refused_with_the_name_it_should_have(llama: Path) -> None:
    wrong = DOWN.replace("down_proj", "down_prj")
    rewrite(llama, lambda state: state.__setitem__(wrong, state.pop(DOWN)))
    transformers_loads(llama)
    assert f"{wrong} should perhaps be {DOWN}" in refusal(llama)


def test_an_extra_tensor_is_refused(llama: Path) -> None:
    rewrite(llama, lambda state: state.update({"model.layers.0.mlp.secret.weight": torch.ones(2)}))
    transformers_loads(llama)
    assert "not part of such a model: model.layers.0.mlp.secret.weight" in refusal(llama)


def test_a_layer_number_far_beyond_the_file_is_refused_at_once(llama: Path) -> None:
    rewrite(llama, lambda state: state.update({"model.layers.99999999.mlp.up_proj.weight": torch.ones(2)}))
    assert "a tensor of layer 99,999,999 in a file of 21 tensors" in refusal(llama)


def test_a_misshapen_tensor_is_refused_with_both_shapes(llama: Path) -> None:
    rewrite(llama, lambda state: state.update({DOWN: torch.ones(16, 41)}))
    message = refusal(llama)
    assert f"{DOWN} is [16, 41], expected [d_model, d_mlp]" in message
    assert "d_mlp is 40 in model.layers.0.mlp.down_proj.weight" in message


@pytest.mark.parametrize("shape", [(16,), (16, 40, 1), (40, 16), (0, 40)])
def test_any_other_shape_is_refused(llama: Path, shape: tuple[int, ...]) -> None:
    rewrite(llama, lambda state: state.update({DOWN: torch.ones(shape)}))
    assert f"{DOWN} is {list(shape)}, expected" in refusal(llama)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(llama: Path, dtype: torch.dtype) -> None:
    rewrite(llama, lambda state: state.update({DOWN: torch.ones(16, 40).to(dtype)}))
    transformers_loads(llama)  # cast without a message
    assert f"{DOWN} is stored as {str(dtype).removeprefix('torch.')}" in refusal(llama)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", {"num_hidden_layers": 3}, "num_hidden_layers = 3, but the file has 2"),
        ("llama", {"num_hidden_layers": 1}, "num_hidden_layers = 1, but the file has 2"),
        ("llama", {"num_hidden_layers": -2}, "num_hidden_layers = -2, which is not a positive whole number"),
        ("llama", {"num_hidden_layers": "2"}, "num_hidden_layers = '2', which is not a positive whole number"),
        ("llama", {"num_hidden_layers": 2.0}, "num_hidden_layers = 2.0, which is not a positive whole number"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers = True, which is not a positive whole number"),
        ("llama", {"num_hidden_layers": 10**7}, "num_hidden_layers = 10,000,000, but the file has 2"),
        ("llama", {"vocab_size": 10**12}, "vocab_size = 1,000,000,000,000, but the file has 320"),
        ("llama", {"hidden_size": 32}, "hidden_size = 32, but the file has 16"),
        ("qwen2", {"intermediate_size": 39}, "intermediate_size = 39, but the file has 40"),
        ("llama", {"num_key_value_heads": 4}, "num_key_value_heads * head_dim = 16, but the file has 8"),
        ("gemma3", {"head_dim": 4}, "num_attention_heads * head_dim = 16, but the file has 32"),
        ("gpt2", {"n_inner": 63}, "n_inner = 63, but the file has 64"),
        ("gpt2", {"n_embd": 32}, "n_embd = 32, but the file has 16"),
        ("gpt2", {"n_layer": 1}, "n_layer = 1, but the file has 2"),
        ("llama", {"model_type": "gpt2"}, "config.json says gpt2, but no tensor has a name of that family"),
        ("llama", {"model_type": "gemma3_text"}, "not a complete gemma3 model"),
    ],
)
def test_a_config_that_contradicts_the_file_is_refused(
    tmp_path: Path, family: str, change: dict[str, Any], message: str
) -> None:
    assert message in refusal(edit_config(write_tiny(tmp_path / "model", family), **change))


def test_a_gpt2_width_that_is_neither_stated_nor_four_times_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "gpt2", n_inner=48)
    assert identified(folder).d_mlp == 48
    assert "4 * n_embd = 64, but the file has 48" in refusal(edit_config(folder, n_inner=None))


@pytest.mark.parametrize("n_layers", [1, 3])
def test_transformers_loads_a_model_of_the_wrong_depth(llama: Path, n_layers: int) -> None:
    state = transformers_loads(edit_config(llama, num_hidden_layers=n_layers))
    assert len([name for name in state if name.endswith("down_proj.weight")]) == n_layers


def test_a_head_that_is_neither_stored_nor_tied_is_refused(llama: Path) -> None:
    edit_config(llama, tie_word_embeddings=False)
    loaded = transformers_loads(llama)
    assert not torch.equal(loaded["lm_head.weight"], loaded["model.embed_tokens.weight"])  # random numbers
    assert "lm_head.weight is missing: config.json does not tie" in refusal(llama)
    assert identified(llama, config=False).tied


def test_a_tied_head_stored_a_second_time_is_tied(llama: Path) -> None:
    rewrite(llama, lambda state: state.update({"lm_head.weight": state["model.embed_tokens.weight"].clone()}))
    architecture = identified(llama)
    assert architecture.tied
    assert architecture.notes == ("lm_head.weight is stored although it equals the embedding",)
    assert architecture.names("head") == ("lm_head.weight",)


def test_a_head_of_its_own_against_a_config_that_ties_it_is_used_with_a_note(llama: Path) -> None:
    rewrite(llama, lambda state: state.update({"lm_head.weight": state["model.embed_tokens.weight"] + 1}))
    architecture = identified(llama)
    assert not architecture.tied
    assert "lm_head.weight is stored and differs" in architecture.notes[0]


def test_biases_come_all_or_none(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", attention_bias=True, mlp_bias=True)
    for config in (True, False):
        architecture = identified(folder, config=config)
        assert architecture.name == "llama"
        assert len(architecture.names("o_bias")) == len(architecture.names("out_bias")) == 2
    rewrite(folder, lambda state: state.pop("model.layers.1.self_attn.k_proj.bias"))
    assert "missing: model.layers.1.self_attn.k_proj.bias" in refusal(folder)


def test_derivable_buffers_of_older_files_are_ignored(tmp_path: Path) -> None:
    llama = write_tiny(tmp_path / "llama")
    rewrite(llama, lambda state: state.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}))
    assert identified(llama).n_layers == 2
    gpt2 = write_tiny(tmp_path / "gpt2", "gpt2")
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool) for layer in range(2)}
    rewrite(gpt2, lambda state: state.update({**masks, "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}))
    assert identified(gpt2).n_layers == 2


def test_the_prefix_that_a_gpt2_file_omits_is_added(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "gpt2")
    expected = identified(folder)

    def without_prefix(state: State) -> None:
        for name in list(state):
            state[name.removeprefix("transformer.")] = state.pop(name)
        state["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)

    rewrite(folder, without_prefix)
    assert identified(folder) == expected
    assert "added prefix 'transformer.'" in open_checkpoint(folder).notes[0]


def test_other_models_have_no_architecture_but_a_reason(tmp_path: Path) -> None:
    state = {"encoder.0.weight": torch.ones(3, 3)}
    save_file(state, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert identify(checkpoint, None) is None
    supported = ", ".join(sorted(kind for family in families() for kind in family.model_types))
    assert why_unknown(checkpoint, None) == f"the tensor names are of no supported family ({supported})"
    assert identify(checkpoint, {"model_type": "bert"}) is None
    assert "model_type 'bert' of config.json is not supported" in why_unknown(checkpoint, {"model_type": "bert"})


def test_a_head_alone_is_not_a_damaged_model(tmp_path: Path) -> None:
    save_file({"lm_head.weight": torch.ones(4, 2), "probe.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    assert identify(open_checkpoint(tmp_path), None) is None


def test_a_related_family_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    config = StableLmConfig(
        hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, vocab_size=64
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert identify(checkpoint, None) is None
    assert identify(checkpoint, json.loads((tmp_path / "config.json").read_text())) is None


def test_a_multimodal_model_is_reported_as_one(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "gemma3")
    rewrite(folder, lambda state: [state.__setitem__(f"language_model.{n}", state.pop(n)) for n in list(state)])
    checkpoint = open_checkpoint(folder)
    assert identify(checkpoint, None) is None
    assert "a multimodal model" in why_unknown(checkpoint, {"model_type": "gemma3"})
