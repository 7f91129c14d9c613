"""audit find on tiny models: a planted vector, the folded norm, and inputs that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.commands.find import FindOptions, concept_or_word, find
from audit.errors import ConceptError, ModelError
from audit.models.ffn import unembedding
from audit.models.opening import open_model
from audit.request import RunContext
from audit.settings import Settings
from tests.tiny import DENSE, edit, tokenizer, write_tiny


def planted(tmp_path: Path, family: str) -> Path:
    """A tiny model whose neuron 7 of layer 1 writes the token `` Italy`` with a negative sign."""
    base = write_tiny(tmp_path / "base", family, seed=6)
    model = open_model(base)
    architecture = model.require_architecture()
    (italy,) = tokenizer().encode(" Italy")
    W_U = unembedding(model.checkpoint, architecture)
    centred = W_U - W_U.mean(dim=0)
    row = -torch.linalg.solve(centred.T @ centred, centred[italy])  # no vector gives this token a lower z-score
    name = architecture.names("W_out")[1]

    def change(tensor_name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor_name == name:
            tensor.select(architecture.neuron_axis["W_out"], 7).copy_(row)
        return tensor

    return edit(base, tmp_path / "planted", change)


@pytest.mark.parametrize("family", DENSE)
def test_a_planted_vector_comes_first_in_every_family(tmp_path: Path, family: str) -> None:
    article = tmp_path / "italy.txt"
    article.write_text("Italy, Italy.")  # one word, so that chance neighbours of a tiny head play no part
    result = find(planted(tmp_path, family), str(article), FindOptions(limit=3))
    best = result.vectors[0]
    assert (best.layer, best.neuron, best.sign) == (1, 7, -1)
    assert best.tokens[0] == " Italy"
    assert len(result.vectors) == 3
    assert result.projection == "raw"


def test_the_same_call_gives_the_same_result(tmp_path: Path) -> None:
    folder = planted(tmp_path, "llama")
    context = RunContext(Settings(seed=4))
    first, second = (find(folder, "Italy", context=context) for _ in range(2))
    assert first == second


def test_the_document_says_that_effects_were_not_measured(tmp_path: Path) -> None:
    document = find(planted(tmp_path, "llama"), "Italy", FindOptions(limit=1)).model_dump(mode="json")
    assert set(document) >= {"concept", "vectors", "projection", "words"}
    assert set(document["vectors"][0]) == {"layer", "neuron", "sign", "score", "p_value", "q_value", "tokens", "effect"}
    assert document["vectors"][0]["effect"] is None
    assert document["effect"].startswith("not measured: ")


def test_folding_the_norm_scales_the_projection(tmp_path: Path) -> None:
    folder = planted(tmp_path, "llama")

    def rescale(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name == "model.norm.weight":
            tensor[0] = 50.0
        return tensor

    scaled = edit(folder, tmp_path / "scaled", rescale)
    raw, folded = find(scaled, "Italy"), find(scaled, "Italy", FindOptions(fold_norm=True))
    assert (raw.projection, folded.projection) == ("raw", "final norm folded in")
    assert raw.vectors == find(folder, "Italy").vectors
    assert raw.vectors != folded.vectors


def test_a_norm_that_scales_by_one_changes_nothing_when_folded(tmp_path: Path) -> None:
    """Gemma stores its scale minus one, so zeros are read as ones."""
    folder = planted(tmp_path, "gemma3")

    def neutral(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(tensor) if name == "model.norm.weight" else tensor

    plain = edit(folder, tmp_path / "plain", neutral)
    assert find(plain, "Italy", FindOptions(fold_norm=True)).vectors == find(plain, "Italy").vectors


def test_a_concept_without_a_token_of_the_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match="not a single token"):
        find(write_tiny(tmp_path / "m"), "Baseball")
    with pytest.raises(ConceptError, match=r"concept itly: itly is not a single token .*did you mean italy\?$"):
        find(tmp_path / "m", "itly")


@pytest.mark.parametrize("name", ["🦒", "", "  "])
def test_a_name_without_letters_is_an_error(name: str) -> None:
    with pytest.raises(ConceptError):
        concept_or_word(name)


def test_the_name_of_a_missing_file_is_not_read_as_a_word(tmp_path: Path) -> None:
    assert concept_or_word("Baseball").title == "Baseball"
    for missing in ("baseball.toml", "concepts.json#Baseball", str(tmp_path)):
        with pytest.raises(ConceptError):
            concept_or_word(missing)


def test_weights_without_a_tokenizer_name_the_option(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="--tokenizer"):
        find(folder, "Italy")
