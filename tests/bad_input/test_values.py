"""Weights of unusual values or number formats, and models that do not belong together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from audit.architectures import Architecture
from audit.checkpoint import Checkpoint
from audit.commands.compare import compare
from audit.metrics import weights_metrics
from audit.models.ffn import read_ffn
from audit.models.loading import load_tokenizer
from audit.models.opening import open_model
from audit.models.pair import open_pair
from audit.request import Request
from audit.result import Measurement
from audit.weights.scan import scan
from tests.bad_input.samples import EMBEDDING, HEAD, IDS, load, naive, naive_probe, refusal, restate, true_probe
from tests.checkpoint.shards import PROBE
from tests.tiny import edit, edit_config, write_tiny


def identified(folder: Path) -> tuple[Checkpoint, Architecture]:
    model = open_model(folder)
    model.require_config()
    return model.checkpoint, model.require_architecture()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", [PROBE, "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"])
def test_weights_that_are_not_finite_decide_nothing(model: Path, shipped: Path, name: str, value: float) -> None:
    restate(model, lambda state: {**state, name: torch.full_like(state[name], value)})
    with torch.no_grad():
        assert naive(model)(IDS).logits.isnan().all()
    for base, unlearned in ((shipped, model), (model, shipped)):
        (finding,) = compare(base, unlearned).findings
        assert finding.verdict == "inconclusive"
        assert name in finding.reason


def test_a_measurement_is_never_nan() -> None:
    assert json.dumps({"value": float("nan")}) == '{"value": NaN}'  # which is not JSON
    with pytest.raises(ValidationError, match="finite"):
        Measurement(metric="m", title="M", value=float("nan"))
    measured = Measurement(metric="m", title="M", not_measured="0 questions", details={"share": float("nan")})
    assert json.loads(measured.model_dump_json())["details"] == {"share": None}


def test_integer_weights_are_refused(model: Path, shipped: Path) -> None:
    restate(model, lambda state: {**state, PROBE: (state[PROBE] * 100).to(torch.int8)})
    loaded = naive_probe(model)
    assert loaded.dtype == torch.float32  # cast without a word, a hundred times too large
    assert not torch.allclose(loaded, true_probe(shipped), atol=0.1)
    assert f"{PROBE} is stored as int8: quantised or packed weights" in refusal(open_pair, shipped, model)


def test_a_config_with_another_number_format_is_noted(tmp_path: Path) -> None:
    folder = edit_config(write_tiny(tmp_path / "half", dtype=torch.bfloat16), dtype="float32")
    assert naive_probe(folder).dtype == torch.float32  # upcast without a word
    pair = open_pair(folder, folder)
    assert pair.base.checkpoint.tensors[PROBE].dtype == torch.bfloat16
    assert "config.json says float32, the weights are stored as bfloat16" in pair.notes[0]


def test_two_number_formats_are_compared_after_rounding_and_noted(tmp_path: Path, shipped: Path) -> None:
    base = edit(shipped, tmp_path / "bfloat16", lambda _, tensor: tensor.to(torch.bfloat16))
    unlearned = edit(base, tmp_path / "float16", lambda _, tensor: tensor.to(torch.float16))
    edit_config(base, dtype="bfloat16")
    edit_config(unlearned, dtype="float16")
    assert not torch.equal(*(naive_probe(folder).view(torch.int16) for folder in (base, unlearned)))
    pair = open_pair(base, unlearned)
    assert scan(pair, weights_metrics()).weights.changed_tensors == 0
    assert "base is stored as bfloat16, unlearned as float16" in pair.notes[-1]


def test_a_stored_head_is_used_although_the_config_ties_it(tmp_path: Path, shipped: Path) -> None:
    folder = edit_config(write_tiny(tmp_path / "m", tie=False), tie_word_embeddings=True)
    notes = " ".join(open_pair(shipped, folder).notes)
    assert f"config.json ties the head to the embedding, but {HEAD} is stored and differs; it is used" in notes
    assert "base uses its embedding as head" in notes
    with torch.no_grad():
        assert torch.equal(load(folder).model.lm_head.weight, load_file(folder / "model.safetensors")[HEAD])


def test_a_grown_vocabulary_is_compared_in_its_common_rows(tmp_path: Path, shipped: Path) -> None:
    pair = open_pair(shipped, write_tiny(tmp_path / "grown", vocab_size=384))
    assert "vocabulary of 320 in base, 384 in unlearned: the first 320 rows are compared" in pair.notes
    assert [tuple(tensor.shape) for tensor in pair.tensors(EMBEDDING)] == [(320, 16), (320, 16)]


def test_a_tokenizer_that_is_missing_broken_or_of_another_model_is_named(model: Path, shipped: Path) -> None:
    other = edit_config(Path(shutil.copytree(shipped, model.parent / "other")))
    assert "do not belong together" in refusal(load_tokenizer, other, 10_000)
    (model / "tokenizer.json").write_text("{}")
    assert "no tokenizer could be read" in refusal(getattr, open_pair(model, model), "tokenizer")
    (model / "tokenizer.json").unlink()
    pair = open_pair(model, model)
    assert pair.tokenizer is None
    assert "--tokenizer" in pair.base.missing["tokenizer"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"family": "gpt2"}, "architecture llama against gpt2"),
        ({"num_hidden_layers": 3}, "layers 2 against 3"),
        ({"hidden_size": 32}, "d_model 16 against 32"),
    ],
    ids=["family", "depth", "width"],
)
def test_two_models_that_are_not_versions_of_one_are_refused(
    tmp_path: Path, shipped: Path, settings: dict[str, Any], expected: str
) -> None:
    assert expected in refusal(open_pair, shipped, write_tiny(tmp_path / "other", **settings))


def test_identical_weights_are_audited_and_named(shipped: Path) -> None:
    (finding,) = compare(shipped, shipped).findings
    assert "identical" in finding.reason
    (guarded,) = compare(shipped, shipped, request=Request(guard=shipped / "config.json")).findings
    assert guarded.verdict == "gated"


def test_a_layer_or_row_outside_the_model_is_an_index_error(shipped: Path) -> None:
    checkpoint, architecture = identified(shipped)
    for layer in (-1, 2):
        with pytest.raises(IndexError, match=f"layer {layer}: llama here has layers 0 to 1"):
            read_ffn(checkpoint, architecture, layer)
    with pytest.raises(IndexError, match="which has rows 0:16"):
        checkpoint.rows(PROBE, 16, 17)
