"""Vectors named in a concept's file: traced, with the scores of the published script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from audit.architectures import identify
from audit.checkpoint import open_checkpoint
from audit.checkpoint.config import own_config
from audit.commands.compare import compare
from audit.commands.plan import plan_comparison
from audit.errors import ConceptError
from audit.models.ffn import unembedding, value_vectors
from audit.request import Request, RunContext
from audit.settings import Settings
from tests.reference import vector_scores
from tests.tiny import edit, write_tiny

KNOWN = RunContext(Settings(limit=4, known_vectors=True, attacks="none"))
PLACES = [(1, 5), (0, 17)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("known") / "base", intermediate_size=400)


def benchmark(tmp_path: Path, places: list[tuple[int, int]] = PLACES) -> str:
    """A ConceptVectors file with one entry for each vector of the concept, like the published ones."""
    entry = {"Concept": "Italy", "QA": ["What is the capital?"], "unrelated_QA": ["What is water?"]}
    entry |= {"text_completion": [], "wikipedia_content": "Italy is a country. Rome is the capital of Italy."}
    file = tmp_path / "dev.json"
    file.write_text(json.dumps([entry | {"Layer": layer, "Dim": neuron} for layer, neuron in places]))
    return f"{file}#Italy"


def nudged(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not name.endswith("down_proj.weight"):
        return tensor
    return tensor + 0.3 * tensor.std() * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))


def test_their_scores_are_those_of_the_published_script(base: Path, tmp_path: Path) -> None:
    unlearned = edit(base, tmp_path / "unlearned", nudged)
    (finding,) = compare(base, unlearned, request=Request(concepts=[benchmark(tmp_path)]), context=KNOWN).findings
    one, other = open_checkpoint(base), open_checkpoint(unlearned)
    architecture = identify(one, own_config(one))
    assert architecture is not None
    scores = [
        vector_scores(
            value_vectors(one, architecture, layer)[neuron],
            value_vectors(other, architecture, layer)[neuron],
            unembedding(one, architecture),
        )
        for layer, neuron in PLACES
    ]
    assert all(score.cosine < 0.99 for score in scores)
    for metric in ("cosine", "jaccard"):
        rows = finding[f"vector_{metric}"].items
        assert [(row["layer"], row["neuron"], row["sign"]) for row in rows] == [(*place, "+") for place in PLACES]
        assert [row["value"] for row in rows] == pytest.approx([getattr(score, metric) for score in scores], abs=1e-6)
    plain = sum(score.l2 for score in scores) / len(scores)
    assert finding["vector_l2"].details["mean_l2"] == pytest.approx(plain, abs=1e-6)
    control = finding["vector_cosine"].control
    assert control is not None
    assert control.name.startswith("20 other vectors")


def test_a_concept_without_vectors_or_with_those_of_another_model_is_an_error(base: Path, tmp_path: Path) -> None:
    for run in (compare, plan_comparison):
        with pytest.raises(ConceptError, match=r"Italy names no vectors\. Omit --known-vectors"):
            run(base, base, request=Request(concepts=["italy"]), context=KNOWN)
    for places in ([(1, 5), (19, 5)], [(1, 10770)]):
        with pytest.raises(ConceptError, match=r"names the value vector .* but the model has 2 layers of 400 neurons"):
            compare(base, base, request=Request(concepts=[benchmark(tmp_path, places)]), context=KNOWN)
