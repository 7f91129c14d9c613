"""Whatever belongs to a checkpoint is determined once; a missing part has a reason, a bad named input is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from audit.errors import CheckpointError, ModelError
from audit.models.opening import NO_TOKENIZER, open_model
from audit.models.pair import open_pair
from tests.helpers import open_model as load
from tests.tiny import edit_config, write_tiny

ROOT = Path(__file__).resolve().parents[2]
IDS = torch.tensor([[5, 9, 40, 77]])


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def test_a_whole_folder_has_everything_and_runs(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    model = open_model(folder)
    assert model.missing == {}
    assert model.architecture is not None
    assert model.architecture.name == "llama"
    assert model.tokenizer is model.require_tokenizer()
    torch.testing.assert_close(model.load().model(IDS).logits, load(folder).model(IDS).logits)


def test_what_is_not_beside_the_weights_is_missing_with_the_reason(tmp_path: Path) -> None:
    model = open_model(without(write_tiny(tmp_path / "model"), "config.json", "tokenizer.json"))
    assert model.missing == {
        "config": "no config.json beside the weights. Pass its folder with --config.",
        "tokenizer": NO_TOKENIZER,
    }
    assert (model.config, model.tokenizer) == (None, None)
    with pytest.raises(ModelError, match=r"no config\.json beside the weights"):
        model.load()
    with pytest.raises(ModelError, match="no tokenizer could be read"):
        model.require_tokenizer()


def test_a_state_dict_of_no_family_says_why_it_cannot_be_run(tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.ones(3, 3)}, tmp_path / "other.safetensors")
    model = open_model(tmp_path / "other.safetensors")
    assert model.architecture is None
    assert model.missing["architecture"].startswith("the tensor names are of no supported family (bloom")
    with pytest.raises(ModelError, match=r"other\.safetensors: the tensor names are of no supported family"):
        model.load()


def test_named_folders_are_used_before_those_beside_the_weights(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", rope_theta=10.0)
    other = edit_config(write_tiny(tmp_path / "other"), rope_theta=77.0)
    weights = without(write_tiny(tmp_path / "alone"), "config.json", "tokenizer.json")
    model = open_model(weights, config=folder, tokenizer=other)
    assert model.missing == {}
    assert model.tokenizer_files.path == other
    named = open_model(folder, config=other)
    assert named.config is not None
    assert named.config["rope_theta"] == 77.0


def test_a_named_input_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    with pytest.raises(ModelError, match="no such config"):
        open_model(folder, config=tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no such tokenizer"):
        _ = open_model(folder, tokenizer=tmp_path / "nowhere").tokenizer
    small = edit_config(write_tiny(tmp_path / "small"))
    with pytest.raises(ModelError, match="do not belong together"):
        _ = open_model(write_tiny(tmp_path / "large", vocab_size=10_000), tokenizer=small).tokenizer


def test_a_broken_config_is_one_line_with_its_file(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: not valid JSON") as caught:
        open_model(folder)
    assert "\n" not in str(caught.value)


def test_the_models_of_a_pair_share_one_tokenizer_that_fits_the_base(tmp_path: Path) -> None:
    base, unlearned = write_tiny(tmp_path / "base"), write_tiny(tmp_path / "unlearned", seed=1)
    pair = open_pair(base, unlearned, base)
    assert pair.tokenizer is pair.unlearned.tokenizer
    assert [*pair.models] == ["base", "unlearned", "retained"]
    assert pair.models["retained"].tokenizer is pair.tokenizer
    pair = open_pair(without(base, "tokenizer.json"), unlearned)
    assert pair.tokenizer is not None
    assert pair.base.tokenizer_files.path == unlearned
    pair = open_pair(base, without(unlearned, "tokenizer.json"))
    assert (pair.tokenizer, pair.base.missing) == (None, {"tokenizer": NO_TOKENIZER})
    named = open_pair(base, unlearned, tokenizer=write_tiny(tmp_path / "named"))
    assert named.unlearned.tokenizer_files.path == tmp_path / "named"


def test_a_model_without_a_config_is_run_with_the_one_it_borrows(tmp_path: Path) -> None:
    base, unlearned = write_tiny(tmp_path / "base"), write_tiny(tmp_path / "unlearned", seed=1)
    expected = load(base).model(IDS).logits
    pair = open_pair(without(base, "config.json"), unlearned)
    assert pair.base.missing == {}
    torch.testing.assert_close(pair.base.load().model(IDS).logits, expected)


def test_a_broken_model_of_a_known_family_is_an_error_not_a_reason(tmp_path: Path) -> None:
    folder = edit_config(write_tiny(tmp_path / "model"), num_hidden_layers=5)
    with pytest.raises(CheckpointError, match="num_hidden_layers = 5"):
        open_model(folder)


def test_opening_loads_no_tokenizer_until_it_is_needed(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    code = (
        "import sys; from pathlib import Path; from audit.models.pair import open_pair; "
        f"pair = open_pair(*[Path({str(folder)!r})] * 2); assert pair.base.missing == {{}}; "
        "sys.exit(int('transformers' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
