"""Finding one concept's vectors among all of a model: the screen, the exact top 200, and the one-by-one reference.

Run ``python benchmarks/screening.py [MODEL_FOLDER] [CONCEPT]``; without a folder the demo's model is used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit.architectures import identify
from audit.checkpoint import open_checkpoint
from audit.checkpoint.config import own_config
from audit.mlp import unembedding, value_vectors
from audit.running import load_tokenizer
from audit.search import lexicon_of
from benchmarks.record import publish
from concepts.concept import load_concept
from concepts.discovery import (
    CONTROL_SETS,
    TOP,
    HeadStatistics,
    enrichment,
    exhaustive_top,
    rank,
    shortlist,
)
from concepts.tokens import concept_tokens, matched_sets, matched_strata

GOAL_SECONDS, GOAL_SPEEDUP, GOAL_MATMUL = 1.0, 300.0, 0.7
SAMPLE = 300
"""Vectors sorted one by one; their time is scaled to all."""
REPEATS = 5

Result = TypeVar("Result")


def main(arguments: list[str]) -> None:
    """Measures on CPU, all of the machine's threads, weights in memory."""
    folder = Path(arguments[0]) if arguments else demo_model()
    checkpoint = open_checkpoint(folder)
    architecture = identify(checkpoint, own_config(checkpoint))
    if architecture is None:
        raise SystemExit(f"{folder}: a model of no known family")
    W_U = unembedding(checkpoint, architecture)
    layers = [(layer, value_vectors(checkpoint, architecture, layer)) for layer in range(architecture.n_layers)]
    lexicon = lexicon_of(load_tokenizer(folder), W_U.shape[0])
    name = arguments[1] if len(arguments) > 1 else "italy"
    publish("screening", measure(layers, W_U, lexicon, name), notes(layers, W_U, name))


def demo_model() -> Path:
    from audit.demo import default_cache, model_folder

    return model_folder(default_cache())


def notes(layers: list[tuple[int, torch.Tensor]], W_U: torch.Tensor, name: str) -> str:
    vectors = sum(matrix.shape[0] for _, matrix in layers)
    return (
        f"{vectors:,} value vectors, concept {name}, head {tuple(W_U.shape)}, {torch.get_num_threads()} threads; "
        f"best of {REPEATS} for the screen; one-by-one measured on {SAMPLE} vectors and scaled"
    )


def measure(layers: list[tuple[int, torch.Tensor]], W_U: torch.Tensor, lexicon: Any, name: str) -> list[dict[str, Any]]:
    """One row for each thing measured: seconds, goal, reached."""
    head_seconds, head = timed(lambda: HeadStatistics.from_head(W_U))
    word_seconds, tokens = timed(lambda: concept_tokens(lexicon, load_concept(name), W_U.numpy()))
    strata = matched_strata(lexicon, tokens)
    controls = matched_sets(strata, lexicon, tokens, CONTROL_SETS, np.random.default_rng(0))
    rows, control_rows = W_U[torch.from_numpy(tokens.ids)], W_U[torch.from_numpy(controls)]
    screen_seconds, best = timed(lambda: shortlist(layers, head, rows, control_rows), REPEATS)
    rank_seconds, _ = timed(lambda: rank(best, W_U, lexicon, tokens, strata), REPEATS)
    everything = torch.cat([matrix for _, matrix in layers])
    reference_seconds = one_by_one(everything, W_U) * everything.shape[0]
    exact_seconds, top = timed(lambda: exhaustive_top(everything, W_U))
    matmul_seconds = matmul_only(everything, W_U)
    missed = exact_best(everything, W_U, top, lexicon, tokens) - shortlisted(best, layers[0][1].shape[0])
    speedup = reference_seconds / screen_seconds
    return [
        row("head statistics, once a model", head_seconds),
        row("concept words", word_seconds),
        row("screen of all vectors", screen_seconds, GOAL_SECONDS, screen_seconds < GOAL_SECONDS),
        row("exact top 200 and tests of the shortlist", rank_seconds),
        row("one-by-one full sort of all (scaled)", reference_seconds),
        row("one-by-one over screen, times", speedup, GOAL_SPEEDUP, speedup >= GOAL_SPEEDUP),
        row("exact top 200 of all vectors, one side", exact_seconds),
        row(
            "share of it in the matmul",
            matmul_seconds / exact_seconds,
            GOAL_MATMUL,
            matmul_seconds / exact_seconds >= GOAL_MATMUL,
        ),
        row("exact top 20 missed by the screen's 200", float(len(missed)), 0.0, not missed),
    ]


def row(what: str, value: float, goal: float | None = None, reached: bool | None = None) -> dict[str, Any]:
    return {"what": what, "value": value, "goal": goal, "reached": reached}


def timed(work: Callable[[], Result], repeats: int = 1) -> tuple[float, Result]:
    """The best time of ``repeats`` runs in seconds, and the last result."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def one_by_one(vectors: torch.Tensor, W_U: torch.Tensor) -> float:
    """Seconds for each vector the way the reference does it: project one, sort the whole vocabulary."""
    chosen = vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:SAMPLE]]
    start = time.perf_counter()
    for vector in chosen:
        (W_U @ vector).sort(descending=True)
    return (time.perf_counter() - start) / SAMPLE


def matmul_only(vectors: torch.Tensor, W_U: torch.Tensor, batch: int = 512) -> float:
    """Seconds of the projections alone, in the batches of ``exhaustive_top``."""
    head = W_U.T
    start = time.perf_counter()
    for begin in range(0, len(vectors), batch):
        vectors[begin : begin + batch] @ head
    return time.perf_counter() - start


def exact_best(vectors: torch.Tensor, W_U: torch.Tensor, top: torch.Tensor, lexicon: Any, tokens: Any) -> set[int]:
    """The 20 (sign, vector) with the most enriched exact top 200 among all, as ``side * n + index``.

    Ties for the last place are cut by the mean z-score of the concept's words, as they would stand in a list.
    """
    sides = [hits_of(top.numpy(), lexicon, tokens), hits_of(exhaustive_top(-vectors, W_U).numpy(), lexicon, tokens)]
    hits = np.concatenate([hit for hit, _ in sides])
    drawn = np.concatenate([words for _, words in sides])
    scores = enrichment(hits, drawn, len(tokens), int(lexicon.keys.max()) + 1)
    return set(np.argsort(-scores, kind="stable")[:20].tolist())


def hits_of(top: np.ndarray, lexicon: Any, tokens: Any) -> tuple[np.ndarray, np.ndarray]:
    """Concept words and different words in each top 200."""
    concept = np.isin(lexicon.keys, lexicon.keys[tokens.ids])
    merged = np.sort(lexicon.keys[top], axis=1)
    fresh = np.concatenate([np.ones((len(top), 1), bool), np.diff(merged, axis=1) != 0], axis=1)
    of_concept = np.zeros(int(lexicon.keys.max()) + 1, dtype=bool)
    of_concept[lexicon.keys[concept]] = True
    return (fresh & of_concept[merged]).sum(axis=1), fresh.sum(axis=1)


def shortlisted(best: Any, d_mlp: int) -> set[int]:
    """The screen's vectors, numbered as in ``exact_best``."""
    side = np.where(best.signs > 0, 0, best.screened)
    return set((side + best.layers * d_mlp + best.neurons).tolist())


if __name__ == "__main__":
    assert TOP == 200
    main(sys.argv[1:])
