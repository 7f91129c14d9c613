"""What was unlearned here? The neurons that changed most, and what they say in vocabulary space before and after.

Needs no concept. A *theme* is a token towards or away from which the changes of the most changed neurons point
together, beyond what as many other neurons do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from audit.metrics.neuron_change import NeuronTable
from audit.mlp import unembedding, value_vectors
from audit.pair import ModelPair
from audit.result import Control, Measurement, NeuronChange

METRIC = "changed_vocabulary"
TITLE = "Common theme of the changed neurons"
TOP = 20
"""Neurons listed."""
TOKENS = 10
"""Tokens shown of each."""
THEMES = 8
"""Words shown of a theme."""
CONTROL_POOL = 240
CONTROL_SETS = 199
SIGNIFICANT = 0.05
SEED = 0

Place = tuple[int, int]


@dataclass(frozen=True)
class ChangedNeurons:
    """The most changed neurons, the words they share, and the measurement behind that claim."""

    top: list[NeuronChange]
    themes: list[str]
    measurement: Measurement


def describe_neurons(pair: ModelPair, table: NeuronTable, tokenizer: Any) -> ChangedNeurons:
    """The ``TOP`` neurons whose value vector changed most, relative to its norm, and what they write.

    Args:
        tokenizer: without it the neurons are listed and their tokens stay unnamed.
    """
    places = most_changed(table, TOP)
    if not places or pair.architecture is None:
        return ChangedNeurons([], [], _absent("no value vector was changed"))
    if tokenizer is None:
        return ChangedNeurons([_record(table, place) for place in places], [], _absent("no tokenizer names the tokens"))
    pool = control_pool(table, places)
    before, after = _vectors(pair, [*places, *pool])
    words = _Words(tokenizer)
    top = _with_tokens(pair, table, places, before[: len(places)], after[: len(places)], words)
    themes, measurement = _themes(pair, table, places, pool, before, after, words)
    return ChangedNeurons(top, themes, measurement)


def most_changed(table: NeuronTable, limit: int) -> list[Place]:
    """(layer, neuron) by relative change of the value vector, largest first, changed ones only."""
    change = np.nan_to_num(table.relative_change(), nan=0.0)
    order = np.argsort(-change, axis=None, kind="stable")[:limit]
    places = [divmod(int(flat), change.shape[1]) for flat in order]
    return [place for place in places if change[place] > 0]


def control_pool(table: NeuronTable, places: list[Place]) -> list[Place]:
    """Other neurons of the same layers drawn at random: changed ones where there are enough, else any."""
    layers = sorted({layer for layer, _ in places})
    eligible = np.zeros_like(table.touched_value)
    eligible[layers] = table.touched_value[layers]
    for place in places:
        eligible[place] = False
    if eligible.sum() < 3 * len(places):
        eligible[layers] = True
        for place in places:
            eligible[place] = False
    flat = np.flatnonzero(eligible)
    chosen = np.random.default_rng(SEED).permutation(flat)[:CONTROL_POOL]
    return [divmod(int(index), eligible.shape[1]) for index in np.sort(chosen)]


def _vectors(pair: ModelPair, places: list[Place]) -> tuple[torch.Tensor, torch.Tensor]:
    """Value vectors before and after, ``[n, d_model]`` each, one layer in memory at a time."""
    assert pair.architecture is not None
    before = torch.empty(len(places), pair.architecture.d_model)
    after = torch.empty_like(before)
    for layer in sorted({layer for layer, _ in places}):
        rows = [index for index, place in enumerate(places) if place[0] == layer]
        neurons = [places[index][1] for index in rows]
        before[rows] = value_vectors(pair.base, pair.architecture, layer)[neurons]
        after[rows] = value_vectors(pair.unlearned, pair.architecture, layer)[neurons]
    return before, after


def _with_tokens(
    pair: ModelPair,
    table: NeuronTable,
    places: list[Place],
    before: torch.Tensor,
    after: torch.Tensor,
    words: _Words,
) -> list[NeuronChange]:
    """Each neuron with the tokens it wrote, writes now, and was turned away from.

    A gated neuron's coefficient takes both signs, so the side with the more extreme token speaks for it.
    """
    assert pair.architecture is not None
    head = unembedding(pair.base, pair.architecture)
    said, moved = before @ head.T, (after - before) @ head.T
    signs = torch.where(standardised(said).max(dim=1).values >= -standardised(said).min(dim=1).values, 1.0, -1.0)
    del head
    says = after @ unembedding(pair.unlearned, pair.architecture).T
    return [
        _record(
            table,
            place,
            tokens_before=words.top(signs[index] * said[index], TOKENS),
            tokens_after=words.top(signs[index] * says[index], TOKENS),
            tokens_demoted=words.top(-signs[index] * moved[index], TOKENS),
        )
        for index, place in enumerate(places)
    ]


def _themes(
    pair: ModelPair,
    table: NeuronTable,
    places: list[Place],
    pool: list[Place],
    before: torch.Tensor,
    after: torch.Tensor,
    words: _Words,
) -> tuple[list[str], Measurement]:
    """Tokens on which the changes of the top neurons agree, against sets of as many control neurons."""
    assert pair.architecture is not None
    n = len(places)
    if len(pool) < 2 * n:
        return [], _absent(f"{len(pool)} other neurons are too few controls for {n} changed ones")
    directions = after - before
    control_changed = bool(table.touched_value[tuple(zip(*pool, strict=True))].all())
    controls = directions[n:] if control_changed else before[n:]
    head = unembedding(pair.base, pair.architecture)
    scores = standardised(directions[:n] @ head.T).square_()  # [n, d_vocab]
    pooled = standardised(controls @ head.T).square_()
    shared = scores.mean(dim=0)
    rng = np.random.default_rng(SEED)
    null = torch.stack(
        [
            pooled[torch.from_numpy(rng.choice(len(pool), n, replace=False))].mean(dim=0).max()
            for _ in range(CONTROL_SETS)
        ]
    )
    strongest = float(shared.max())
    p_value = (1 + int((null >= strongest).sum())) / (1 + CONTROL_SETS)
    found = words.top(shared, THEMES) if p_value < SIGNIFICANT else []
    kind = "changes of other changed neurons" if control_changed else "value vectors of untouched neurons"
    return found, Measurement(
        metric=METRIC,
        title=TITLE,
        value=strongest,
        unit="mean squared z of the token on which the changes agree most",
        direction="none",
        n=n,
        p_value=p_value,
        control=Control(name=f"{kind}, same layers", value=float(null.mean())),
        details={
            "null": f"{CONTROL_SETS} sets of {n} control neurons",
            "theme": ", ".join(found) if found else "no theme stands out",
        },
    )


def standardised(scores: torch.Tensor) -> torch.Tensor:
    """Each row as z-scores among the vocabulary."""
    return (scores - scores.mean(dim=1, keepdim=True)) / scores.std(dim=1, keepdim=True).clamp_(min=1e-30)


class _Words:
    """Tokens as words: case and leading-space variants merged, each shown once."""

    def __init__(self, tokenizer: Any) -> None:
        self.decode: Callable[[list[int]], str] = tokenizer.decode

    def top(self, scores: torch.Tensor, limit: int) -> list[str]:
        words: dict[str, str] = {}
        for token in scores.topk(min(4 * limit, len(scores))).indices.tolist():
            text = self.decode([token]).strip()
            if text and text.casefold() not in words and len(words) < limit:
                words[text.casefold()] = text
        return list(words.values())


def _record(table: NeuronTable, place: Place, **tokens: list[str]) -> NeuronChange:
    layer, neuron = place
    key_change = float(table.relative_change("key")[place])
    return NeuronChange(
        layer=layer,
        neuron=neuron,
        relative_change=float(table.relative_change()[place]),
        cosine=table.cosine(layer, neuron),
        l2=float(np.sqrt(table.value["delta"][place])),
        key_relative_change=key_change if np.isfinite(key_change) else None,
        **tokens,
    )


def _absent(reason: str) -> Measurement:
    return Measurement(metric=METRIC, title=TITLE, not_measured=reason)
