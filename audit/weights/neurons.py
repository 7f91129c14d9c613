"""What was unlearned here? The neurons that changed most, what they say before and after, and what they have in common.

Needs no concept; the words come from the heads and the tokenizer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from audit.checkpoint.pair import ModelPair
from audit.metrics.weights.neuron_change import NeuronTable
from audit.models.ffn import unembedding, value_vectors
from audit.models.vocabulary import lexicon_of
from audit.result import Measurement, NeuronChange
from audit.weights.themes import absent, content_words, find_theme

TOP = 20
"""Neurons listed."""
TOKENS = 10
"""Tokens shown of each."""
THEME_NEURONS = 200
"""Neurons that a theme is looked for in."""
USUAL = 1_000
"""Value vectors that say what the model usually writes."""
SEED = 0

Place = tuple[int, int]
"""Layer, neuron."""


@dataclass(frozen=True)
class ChangedNeurons:
    """The most changed neurons, the words they share, and the measurement behind that claim."""

    top: list[NeuronChange]
    themes: list[str]
    measurement: Measurement


def describe_neurons(pair: ModelPair, table: NeuronTable, tokenizer: Any) -> ChangedNeurons:
    """The ``TOP`` neurons whose value vectors moved furthest, what they write, and the theme of ``THEME_NEURONS``.

    Args:
        tokenizer: without it the neurons are listed and their tokens stay unnamed.
    """
    places = most_changed(table, THEME_NEURONS) if pair.architecture else []
    if not places or pair.architecture is None:
        return ChangedNeurons([], [], absent("no value vector was changed"))
    listed = places[:TOP]
    if tokenizer is None:
        reason = "no tokenizer names the tokens"
        return ChangedNeurons([_record(table, place) for place in listed], [], absent(reason))
    usual = drawn_alike(places, table.touched_value.shape[1], USUAL)
    before, after, others = _vectors(pair, places, usual)
    head = unembedding(pair.base, pair.architecture)  # [d_vocab, d_model]
    tokens = _tokens(pair, head, before[:TOP], after[:TOP], tokenizer)
    words = content_words(lexicon_of(tokenizer, len(head)), head)
    themes, measurement = find_theme(words, after - before, others, SEED)
    top = [_record(table, place, **said) for place, said in zip(listed, tokens, strict=True)]
    return ChangedNeurons(top, themes, measurement)


def most_changed(table: NeuronTable, limit: int) -> list[Place]:
    """(layer, neuron) by distance moved over the median norm of the layer's value vectors, changed ones only.

    Vectors that hold NaN or infinity have no distance and are left out; the scan names their tensors.
    A neuron's own norm would put the smallest vectors first whatever was trained: an optimizer moves all rows alike.
    """
    norms, distance = (np.sqrt(table.value[which]) for which in ("base", "delta"))
    usual = np.median(np.where(np.isfinite(norms), norms, 0.0), axis=1, keepdims=True)
    known = np.where(table.touched_value & np.isfinite(distance), distance, -np.inf)
    moved = known / np.maximum(usual, np.finfo(np.float64).tiny)
    order = np.argsort(-moved, axis=None, kind="stable")[:limit]
    places = [divmod(int(flat), moved.shape[1]) for flat in order]
    return [place for place in places if moved[place] >= 0]


def drawn_alike(places: Sequence[Place], d_mlp: int, count: int) -> list[Place]:
    """``count`` random neurons, spread over the layers as ``places`` are."""
    rng = np.random.default_rng(SEED)
    layers = rng.choice([layer for layer, _ in places], size=count)
    return list(zip(layers.tolist(), rng.integers(d_mlp, size=count).tolist(), strict=True))


def _vectors(
    pair: ModelPair, places: Sequence[Place], usual: Sequence[Place]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Value vectors of ``places`` before and after, and of ``usual`` before; one layer in memory at a time."""
    assert pair.architecture is not None
    before = torch.empty(len(places), pair.architecture.d_model)
    after, others = torch.empty_like(before), torch.empty(len(usual), pair.architecture.d_model)
    for layer in sorted({layer for layer, _ in places}):
        base = value_vectors(pair.base, pair.architecture, layer)
        unlearned = value_vectors(pair.unlearned, pair.architecture, layer)
        for index, (at, neuron) in enumerate(places):
            if at == layer:
                before[index], after[index] = base[neuron], unlearned[neuron]
        for index, (at, neuron) in enumerate(usual):
            if at == layer:
                others[index] = base[neuron]
    return before, after, others


def _tokens(
    pair: ModelPair, head: torch.Tensor, before: torch.Tensor, after: torch.Tensor, tokenizer: Any
) -> list[dict[str, list[str]]]:
    """For each neuron the tokens it wrote, those it writes now, and those its change took most from.

    A gated neuron's coefficient takes both signs, so the side with the more extreme token speaks for it, before and
    after alike. ``after`` goes through the unlearned model's own head.
    """
    assert pair.architecture is not None
    said, moved = before @ head.T, (after - before) @ head.T
    centred = said - said.mean(dim=1, keepdim=True)
    signs = torch.where(centred.amax(dim=1) >= -centred.amin(dim=1), 1.0, -1.0)
    says = after @ unembedding(pair.unlearned, pair.architecture).T
    return [
        {
            "tokens_before": words_of(tokenizer.decode, sign * said[index]),
            "tokens_after": words_of(tokenizer.decode, sign * says[index]),
            "tokens_demoted": words_of(tokenizer.decode, -sign * moved[index]),
        }
        for index, sign in enumerate(signs)
    ]


def words_of(decode: Callable[[list[int]], str], scores: torch.Tensor, limit: int = TOKENS) -> list[str]:
    """The tokens with the largest scores, variants in case and spacing shown once."""
    words: dict[str, str] = {}
    for token in scores.topk(min(4 * limit, len(scores))).indices.tolist():
        text = decode([token]).strip()
        if text and len(words) < limit:
            words.setdefault(text.casefold(), text)
    return list(words.values())


def _record(table: NeuronTable, place: Place, **tokens: list[str]) -> NeuronChange:
    layer, neuron = place
    return NeuronChange(
        layer=layer,
        neuron=neuron,
        relative_change=_known(table.relative_change()[place]),
        cosine=table.cosine(layer, neuron),
        l2=float(np.sqrt(table.value["delta"][place])),
        key_relative_change=_known(table.relative_change("key")[place]),
        **tokens,
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
