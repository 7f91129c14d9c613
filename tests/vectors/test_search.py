"""Finding concept vectors in files, from tiny models to the table of SmolLM2's known vectors."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from audit.architectures import Architecture, identify
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.config import own_config
from audit.commands.find import FindOptions, concept_or_word, find
from audit.errors import ConceptError, ModelError
from audit.models.ffn import unembedding, value_vectors
from audit.models.loading import load_tokenizer
from audit.request import RunContext
from audit.settings import Settings
from audit.vectors.controls import matched_controls
from audit.vectors.records import SearchResult
from audit.vectors.search import find_vectors
from concepts.discovery import exhaustive_top
from concepts.neuron import Neuron
from tests.tiny import DENSE, edit, tokenizer, write_tiny

GOLDEN = {
    (29, 864, -1): (" French", " french", " France", "France", " Paris"),
    (22, 610, -1): (" January", " November", " February", " March", " September", " October"),
    (29, 240, -1): (" February", " November", " August", " September", " October", " April"),
    (27, 1510, -1): (" Music", " music", " musical", " songs", " Sound"),
    (29, 1433, 1): (" diabetic", " sugar", " Diabetes", " insulin", " glucose"),
    (29, 808, 1): (" Dogs", " dog", "Cats", " canine", " kitten"),
    (29, 555, -1): (" Italians", " Italian", " Italy"),
    (29, 341, -1): (" Spanish", " Mexican", " Mexico", "Spain", " Brazilian"),
    (29, 1478, -1): (" health", " Health", " healthcare", " healthiest"),
}
"""Concept vectors of SmolLM2-135M-Instruct and some of their top 15 tokens."""

RANKS = {
    "italy": {(29, 555, -1): 3},
    "france": {(29, 864, -1): 3},
    "months": {(29, 240, -1): 5, (22, 610, -1): 5},
    "music": {(27, 1510, -1): 3},
    "diabetes": {(29, 1433, 1): 3},
    "dogs": {(29, 808, 1): 3},
    "Italy": {(29, 555, -1): 10},
    "France": {(29, 864, -1): 3},
    "January": {(29, 240, -1): 5, (22, 610, -1): 5},
    "Music": {(27, 1510, -1): 3},
    "Diabetes": {(29, 1433, 1): 3},
    "Dogs": {(29, 808, 1): 3},
    "Mexico": {(29, 341, -1): 3},
    "Spanish": {(29, 341, -1): 3},
    "health": {(29, 1478, -1): 3},
}
"""Library concept (lower case) or bare name -> vector -> the last rank at which it may stand."""


def opened(folder: Path) -> tuple[Checkpoint, Architecture]:
    checkpoint = open_checkpoint(folder)
    architecture = identify(checkpoint, own_config(checkpoint))
    assert architecture is not None
    return checkpoint, architecture


def planted(tmp_path: Path, family: str) -> Path:
    """A tiny model whose neuron 7 of layer 1 writes the token `` Italy`` with a negative sign."""
    base = write_tiny(tmp_path / "base", family, seed=6)
    checkpoint, architecture = opened(base)
    (italy,) = tokenizer().encode(" Italy")
    W_U = unembedding(checkpoint, architecture)
    centred = W_U - W_U.mean(dim=0)
    row = -torch.linalg.solve(centred.T @ centred, centred[italy])  # no vector gives this token a lower z-score
    name = architecture.names("W_out")[1]

    def change(tensor_name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor_name == name:
            tensor.select(architecture.neuron_axis["W_out"], 7).copy_(row)
        return tensor

    return edit(base, tmp_path / "planted", change)


@pytest.mark.parametrize("family", DENSE)
def test_a_planted_vector_is_found_in_every_family(tmp_path: Path, family: str) -> None:
    article = tmp_path / "italy.txt"
    article.write_text("Italy, Italy.")  # one word, so that chance neighbours of a tiny head play no part
    result = find(planted(tmp_path, family), str(article), FindOptions(limit=3))
    best = result.vectors[0]
    assert (best.layer, best.neuron, best.sign) == (1, 7, -1)
    assert best.tokens[0] == " Italy"
    assert len(result.vectors) == 3
    assert result.projection == "raw"


def test_the_same_call_gives_the_same_answer(tmp_path: Path) -> None:
    folder = planted(tmp_path, "llama")
    context = RunContext(Settings(seed=4))
    first, second = (find(folder, "Italy", context=context) for _ in range(2))
    assert first == second


def test_the_json_says_what_was_not_measured(tmp_path: Path) -> None:
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
    """Gemma stores its scale less one, so zeros must be read as ones."""
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
def test_a_name_without_letters_is_an_error_in_one_line(name: str) -> None:
    with pytest.raises(ConceptError):
        concept_or_word(name)


def test_a_mistyped_file_is_not_taken_for_a_word(tmp_path: Path) -> None:
    assert concept_or_word("Baseball").title == "Baseball"
    for missing in ("baseball.toml", "concepts.json#Baseball", str(tmp_path)):
        with pytest.raises(ConceptError):
            concept_or_word(missing)


def test_weights_without_a_tokenizer_name_what_is_missing(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="--tokenizer"):
        find(folder, "Italy")


def test_controls_are_other_vectors_of_the_layer_with_the_nearest_norm(tmp_path: Path) -> None:
    checkpoint, architecture = opened(write_tiny(tmp_path / "m"))
    neurons = [Neuron(0, 3, 1), Neuron(1, 5, -1), Neuron(0, 4, -1)]
    candidates = {Neuron(0, neuron) for neuron in range(10, 30)}
    controls = matched_controls(checkpoint, architecture, neurons, per_vector=2, candidates=candidates)
    assert [(place.layer, place.sign) for place in controls] == [(0, 1), (0, 1), (1, -1), (1, -1), (0, -1), (0, -1)]
    assert len(set(controls)) == 6
    assert not set(controls) & {*candidates, *neurons}
    norms = value_vectors(checkpoint, architecture, 1).norm(dim=1)
    others = (norms - norms[5]).abs()
    others[5] = torch.inf
    assert {place.neuron for place in controls if place.layer == 1} == set(others.argsort()[:2].tolist())


def test_too_few_vectors_for_controls_is_an_error(tmp_path: Path) -> None:
    checkpoint, architecture = opened(write_tiny(tmp_path / "m"))
    with pytest.raises(ConceptError, match="layer 0"):
        matched_controls(checkpoint, architecture, [Neuron(0, 3)], per_vector=40)


# ---- SmolLM2


def test_the_known_vectors_write_the_tokens_of_the_table(smollm2: Path) -> None:
    checkpoint, architecture = opened(smollm2)
    words = load_tokenizer(smollm2)
    W_U = unembedding(checkpoint, architecture)
    for (layer, neuron, sign), expected in GOLDEN.items():
        row = sign * value_vectors(checkpoint, architecture, layer)[neuron]
        top = [words.decode([token]) for token in exhaustive_top(row[None], W_U, k=15)[0].tolist()]
        assert set(expected) <= set(top), (layer, neuron, sign)


@pytest.fixture(scope="module")
def results(smollm2: Path) -> dict[str, SearchResult]:
    checkpoint, architecture = opened(smollm2)
    words = load_tokenizer(smollm2)
    return {name: find_vectors(checkpoint, architecture, concept_or_word(name), words, limit=200) for name in RANKS}


@pytest.mark.parametrize("concept", RANKS)
def test_the_known_vectors_are_found_near_the_top(results: dict[str, SearchResult], concept: str) -> None:
    places = [astuple(vector.place) for vector in results[concept].vectors]
    for place, last in RANKS[concept].items():
        assert place in places[:last]
        assert results[concept].vectors[places.index(place)].q_value < 0.01


def test_no_concept_finds_the_vectors_of_another(results: dict[str, SearchResult]) -> None:
    """Specific: the vector of dogs is not among the best for diabetes, months or France, and so on."""
    for concept, others in (("dogs", "france"), ("diabetes", "dogs"), ("months", "diabetes"), ("france", "months")):
        best = {astuple(vector.place) for vector in results[concept].vectors[:10]}
        assert not best & set(RANKS[others])
