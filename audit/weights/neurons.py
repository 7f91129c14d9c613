"""What was unlearned here? The FFN neurons that changed most, the tokens they write before and after, their theme.

Needs no concept: all words come from the models' heads and the tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.models.ffn import unembedding, value_vectors
from audit.models.pair import ModelPair
from audit.models.tokenizer import Tokenizer
from audit.models.vocabulary import lexicon_of
from audit.result import Measured, NeuronChange, not_measured
from audit.weights.neuron_table import NeuronTable
from audit.weights.themes import content_words, find_theme
from concepts.neuron import Neuron

LISTED_NEURONS = 20
LISTED_TOKENS = 10
"""Tokens listed of each neuron."""
THEME_NEURONS = 200
"""Neurons in which a theme is searched."""
TYPICAL_NEURONS = 1_000
"""Value vectors that show what the model usually writes."""
SEED = 0


@dataclass(frozen=True)
class ChangedNeurons:
    """The most changed neurons, the words they share, and the measurement behind that claim."""

    top: list[NeuronChange]
    themes: list[str]
    measurement: Measured


def describe_neurons(pair: ModelPair, table: NeuronTable | None, tokenizer: Tokenizer | None) -> ChangedNeurons:
    """The ``LISTED_NEURONS`` whose value vectors moved furthest, their tokens, and the theme of ``THEME_NEURONS``.

    Args:
        table: of all neurons; ``None`` where it was not computed.
        tokenizer: without it the neurons are listed without tokens.
    """
    if pair.architecture is None or table is None or not (neurons := most_changed(table, THEME_NEURONS)):
        return ChangedNeurons([], [], not_measured("no value vector was changed"))
    listed = neurons[:LISTED_NEURONS]
    if tokenizer is None:
        reason = "no tokenizer names the tokens"
        return ChangedNeurons([_record(table, neuron) for neuron in listed], [], not_measured(reason))
    typical_neurons = random_neurons(neurons, table.touched_value.shape[1], TYPICAL_NEURONS)
    before, after, typical = _value_vectors(pair, neurons, typical_neurons)
    head = unembedding(pair.base.checkpoint, pair.architecture)
    tokens = _tokens(pair, head, before[: len(listed)], after[: len(listed)], tokenizer)
    words = content_words(lexicon_of(tokenizer, len(head)), head)
    themes, measurement = find_theme(words, after - before, typical, SEED)
    top = [_record(table, neuron, **lists) for neuron, lists in zip(listed, tokens, strict=True)]
    return ChangedNeurons(top, themes, measurement)


def most_changed(table: NeuronTable, limit: int) -> list[Neuron]:
    """Changed neurons by distance moved over the median norm of the layer's value vectors, largest first.

    Vectors that contain NaN or infinity have no distance and are excluded; the scan names their tensors. Divided by
    its own norm, the smallest vectors would come first in any trained model: an optimizer moves all rows alike.
    """
    norms, distance = (np.sqrt(table.value[which]) for which in ("base", "delta"))
    median = np.median(np.where(np.isfinite(norms), norms, 0.0), axis=1, keepdims=True)
    finite = np.where(table.touched_value & np.isfinite(distance), distance, -np.inf)
    moved = finite / np.maximum(median, np.finfo(np.float64).tiny)
    order = np.argsort(-moved, axis=None, kind="stable")[:limit]
    indices = [divmod(int(flat), moved.shape[1]) for flat in order]
    return [Neuron(*index) for index in indices if moved[index] >= 0]


def random_neurons(like: Sequence[Neuron], d_mlp: int, count: int) -> list[Neuron]:
    """``count`` random neurons, distributed over the layers as ``like`` is."""
    rng = np.random.default_rng(SEED)
    layers = rng.choice([neuron.layer for neuron in like], size=count)
    return [
        Neuron(int(layer), int(index)) for layer, index in zip(layers, rng.integers(d_mlp, size=count), strict=True)
    ]


def _value_vectors(
    pair: ModelPair, changed: Sequence[Neuron], typical: Sequence[Neuron]
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, "n d_model"], Float[Tensor, "n_typical d_model"]]:
    """Value vectors of the changed neurons before and after, and of the typical ones before; layer by layer."""
    assert pair.architecture is not None
    before = torch.empty(len(changed), pair.architecture.d_model)
    after, others = torch.empty_like(before), torch.empty(len(typical), pair.architecture.d_model)
    for layer in sorted({neuron.layer for neuron in changed}):
        base = value_vectors(pair.base.checkpoint, pair.architecture, layer)
        unlearned = value_vectors(pair.unlearned.checkpoint, pair.architecture, layer)
        for index, neuron in enumerate(changed):
            if neuron.layer == layer:
                before[index], after[index] = base[neuron.neuron], unlearned[neuron.neuron]
        for index, neuron in enumerate(typical):
            if neuron.layer == layer:
                others[index] = base[neuron.neuron]
    return before, after, others


def _tokens(
    pair: ModelPair,
    head: Float[Tensor, "d_vocab d_model"],
    before: Float[Tensor, "n d_model"],
    after: Float[Tensor, "n d_model"],
    tokenizer: Tokenizer,
) -> list[dict[str, list[str]]]:
    """The tokens that each neuron wrote, those it writes now, and those from which its change took most.

    A gated neuron's coefficient may have either sign, so the tokens are those on the side of the most extreme logit of
    the base, before and after alike. ``after`` goes through the unlearned model's own head.
    """
    assert pair.architecture is not None
    logits, change = before @ head.T, (after - before) @ head.T
    centred = logits - logits.mean(dim=1, keepdim=True)
    signs = torch.where(centred.amax(dim=1) >= -centred.amin(dim=1), 1.0, -1.0)
    logits_after = after @ unembedding(pair.unlearned.checkpoint, pair.architecture).T
    return [
        {
            "tokens_before": top_tokens(tokenizer.decode, sign * logits[index]),
            "tokens_after": top_tokens(tokenizer.decode, sign * logits_after[index]),
            "tokens_demoted": top_tokens(tokenizer.decode, -sign * change[index]),
        }
        for index, sign in enumerate(signs)
    ]


def top_tokens(
    decode: Callable[[list[int]], str], scores: Float[Tensor, " d_vocab"], limit: int = LISTED_TOKENS
) -> list[str]:
    """The tokens with the largest scores; of variants in case and spacing, the first."""
    texts: dict[str, str] = {}
    for token in scores.topk(min(4 * limit, len(scores))).indices.tolist():
        text = decode([token]).strip()
        if text and len(texts) < limit:
            texts.setdefault(text.casefold(), text)
    return list(texts.values())


def _record(table: NeuronTable, neuron: Neuron, **tokens: list[str]) -> NeuronChange:
    index = neuron.layer, neuron.neuron
    return NeuronChange(
        layer=neuron.layer,
        neuron=neuron.neuron,
        relative_change=_finite(table.relative_change()[index]),
        cosine=table.cosine(neuron),
        l2=float(np.sqrt(table.value["delta"][index])),
        key_relative_change=_finite(table.relative_change("key")[index]),
        **tokens,
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
