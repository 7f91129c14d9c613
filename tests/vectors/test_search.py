"""Search for concept vectors in SmolLM2-135M-Instruct, against a table of known ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from functools import cache
from pathlib import Path

import pytest

from audit.commands.find import concept_or_word
from audit.models.ffn import unembedding, value_vectors
from audit.models.opening import open_model
from audit.vectors.records import SearchResult
from audit.vectors.search import find_vectors
from concepts.discovery import exhaustive_top

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
"""Library concept (lower case) or bare name -> vector -> the lowest rank it may have."""


def test_the_known_vectors_write_the_tokens_of_the_table(smollm2: Path) -> None:
    model = open_model(smollm2)
    checkpoint, architecture, tokenizer = model.checkpoint, model.require_architecture(), model.require_tokenizer()
    W_U = unembedding(checkpoint, architecture)
    for (layer, neuron, sign), expected in GOLDEN.items():
        row = sign * value_vectors(checkpoint, architecture, layer)[neuron]
        top = [tokenizer.decode([token]) for token in exhaustive_top(row[None], W_U, k=15)[0].tolist()]
        assert set(expected) <= set(top), (layer, neuron, sign)


@pytest.fixture(scope="session")
def search(smollm2: Path) -> Callable[[str], SearchResult]:
    """The vectors of a concept in the real model, searched for once."""
    model = open_model(smollm2)
    return cache(lambda name: find_vectors(model, concept_or_word(name), limit=200))


@pytest.mark.parametrize("concept", RANKS)
def test_the_known_vectors_are_near_the_top(search: Callable[[str], SearchResult], concept: str) -> None:
    vectors = search(concept).vectors
    places = [astuple(vector.place) for vector in vectors]
    for place, last in RANKS[concept].items():
        assert place in places[:last]
        assert vectors[places.index(place)].q_value < 0.01


def test_the_known_vectors_of_a_concept_are_not_listed_for_another(search: Callable[[str], SearchResult]) -> None:
    """Each pair: a concept, and another whose known vectors are not among its ten best."""
    for concept, other in (("dogs", "france"), ("diabetes", "dogs"), ("months", "diabetes"), ("france", "months")):
        best = {astuple(vector.place) for vector in search(concept).vectors[:10]}
        assert not best & set(RANKS[other])
