"""Search of one concept's vectors among all of a model: the screen, the exact top 200, and the one-by-one reference.

Run ``python -m benchmarks.screening [MODEL_FOLDER] [CONCEPT]``; without a folder the demo's model is used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.stats import false_discovery_control

from audit.models.ffn import unembedding, value_vectors
from audit.models.opening import open_model
from audit.models.vocabulary import lexicon_of
from benchmarks.record import publish
from concepts.concept import load_concept
from concepts.discovery import (
    CONTROL_SETS,
    FALSE_DISCOVERY_RATE,
    HeadStatistics,
    Shortlist,
    exhaustive_top,
    rank,
    shortlist,
)
from concepts.neuron import Neuron
from concepts.tokens import ConceptTokens, Lexicon, concept_tokens, matched_sets, matched_strata

GOAL_SECONDS, GOAL_SPEEDUP, GOAL_MATMUL = 1.0, 300.0, 0.7
SAMPLE = 300
"""Vectors sorted one by one; their time is scaled to all."""
REPEATS = 5

BATCH = 512
"""Vectors projected at once."""

Result = TypeVar("Result")


def main(arguments: list[str]) -> None:
    """Measures on CPU, all of the machine's threads, weights in memory."""
    folder = Path(arguments[0]) if arguments else demo_model()
    opened = open_model(folder)
    checkpoint, architecture = opened.checkpoint, opened.require_architecture()
    W_U = unembedding(checkpoint, architecture)
    layers = [(layer, value_vectors(checkpoint, architecture, layer)) for layer in range(architecture.n_layers)]
    lexicon = lexicon_of(opened.require_tokenizer(), W_U.shape[0])
    name = arguments[1] if len(arguments) > 1 else "italy"
    publish("screening", measure(layers, W_U, lexicon, name), notes(layers, W_U, name))


def demo_model() -> Path:
    from audit.commands.demo import model_folder
    from audit.settings import default_cache

    return model_folder(default_cache())


def notes(layers: list[tuple[int, torch.Tensor]], W_U: torch.Tensor, name: str) -> str:
    vectors = sum(matrix.shape[0] for _, matrix in layers)
    return (
        f"{vectors:,} value vectors, concept {name}, head {tuple(W_U.shape)}, {torch.get_num_threads()} threads; "
        f"best of {REPEATS} for the screen; one-by-one measured on {SAMPLE} vectors and scaled"
    )


def measure(
    layers: list[tuple[int, torch.Tensor]], W_U: torch.Tensor, lexicon: Lexicon, name: str
) -> list[dict[str, Any]]:
    """One row for each thing measured: seconds, goal, reached."""
    head_seconds, head = timed(lambda: HeadStatistics.from_head(W_U))
    word_seconds, tokens = timed(lambda: concept_tokens(lexicon, load_concept(name), W_U.numpy()))
    strata = matched_strata(lexicon, tokens)
    controls = matched_sets(strata, lexicon, tokens, CONTROL_SETS, np.random.default_rng(0))
    rows, control_rows = (W_U[torch.from_numpy(lexicon.forms(ids))] for ids in (tokens.ids, controls))
    screen_seconds, best = timed(lambda: shortlist(layers, head, rows, control_rows), REPEATS)
    rank_seconds, _ = timed(lambda: rank(best, W_U, lexicon, tokens, strata), REPEATS)
    everything = torch.cat([matrix for _, matrix in layers])
    reference_seconds = one_by_one(everything, W_U) * everything.shape[0]
    exact_seconds, _ = timed(lambda: exhaustive_top(everything, W_U))
    matmul_seconds = matmul_only(everything, W_U)
    missed = set(exact_best(layers, W_U, head, lexicon, tokens, controls)) - listed(best)
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


def matmul_only(vectors: torch.Tensor, W_U: torch.Tensor) -> float:
    """Seconds of the projections alone, in the batches of ``exhaustive_top``."""
    head = W_U.T
    start = time.perf_counter()
    for begin in range(0, len(vectors), BATCH):
        vectors[begin : begin + BATCH] @ head
    return time.perf_counter() - start


def exact_best(
    layers: list[tuple[int, torch.Tensor]],
    W_U: torch.Tensor,
    head: HeadStatistics,
    lexicon: Lexicon,
    tokens: ConceptTokens,
    controls: np.ndarray,
) -> list[tuple[Neuron, int]]:
    """The 20 best with their signs, as ``discover`` lists them if its shortlist holds every vector with both signs."""
    strata = matched_strata(lexicon, tokens)
    rows, control_rows = (W_U[torch.from_numpy(lexicon.forms(ids))] for ids in (tokens.ids, controls))
    ranked = []
    for layer in layers:
        whole = shortlist([layer], head, rows, control_rows, keep=2 * layer[1].shape[0])
        for start in range(0, len(whole.layers), BATCH):
            part = slice(start, start + BATCH)
            batch = Shortlist(
                layers=whole.layers[part],
                neurons=whole.neurons[part],
                signs=whole.signs[part],
                scores=whole.scores[part],
                rows=whole.rows[part],
                screened=BATCH,
            )
            ranked += rank(batch, W_U, lexicon, tokens, strata)
    q_values = false_discovery_control([vector.p_value for vector in ranked])
    order = sorted(range(len(ranked)), key=lambda i: (q_values[i] >= FALSE_DISCOVERY_RATE, -ranked[i].score))
    return [(ranked[i].place, ranked[i].place.sign) for i in order[:20]]


def listed(best: Shortlist) -> set[tuple[Neuron, int]]:
    """Neurons of the shortlist, with their signs."""
    rows = zip(best.layers.tolist(), best.neurons.tolist(), best.signs.tolist(), strict=True)
    return {(Neuron(layer, neuron), sign) for layer, neuron, sign in rows}


if __name__ == "__main__":
    main(sys.argv[1:])
