"""The unlearning depth score (arXiv 2605.24614): the base answers from the audited model's residual stream.

Stage 1 patches the reference's stream into the base after each block, where the answer is predicted; the layers at
which the answer becomes less probable encode it. Stage 2 patches the audited model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.exam.models import Ids, Network, Subject, asked, first
from benchmarks.exam.rivals._depth import kept

TITLE = "UDS"
NEEDS_REFERENCE = True


def score(subject: Subject) -> float:
    """1 - UDS: 0 if erased as in the reference, 1 if intact."""
    rows = tuple(asked(subject.facts.forget))
    known = subject.base.answer_means(rows).mean()
    never = _first_stage(subject.base, subject.reference, rows)
    return kept(known - never, known - _patched(subject.base, subject.audited, rows))


@lru_cache(maxsize=2)
def _first_stage(base: Network, reference: Network, rows: tuple[tuple[Ids, Ids], ...]) -> Float[Tensor, " n_layers"]:
    """The same for all models that are audited against this base."""
    return _patched(base, reference, rows)


def _patched(base: Network, giving: Network, rows: Sequence[tuple[Ids, Ids]]) -> Float[Tensor, " n_layers"]:
    """The answers' mean log-probability in ``base``, with the stream after each block taken from ``giving``."""
    streams = giving.streams(rows)
    means = []
    for layer in range(base.n_layers):
        with _replaced(base.network, layer, [stream[layer] for stream in streams], rows):
            means.append(Network(base.network, base.rows).answer_means(rows).mean())
    return torch.stack(means)


@contextmanager
def _replaced(network: Any, layer: int, given: Sequence[Tensor], rows: Sequence[tuple[Ids, Ids]]) -> Iterator[None]:
    """Replace the output of one block where the answers are predicted; the rows of all passes are in order."""
    done = 0

    def hook(_: Any, __: Any, output: Any) -> Any:
        nonlocal done
        stream = first(output).clone()
        for place in range(len(stream)):
            prompt, answer = rows[done + place]
            stream[place, len(prompt) - 1 : len(prompt) + len(answer) - 1] = given[done + place]
        done += len(stream)
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handle = network.model.layers[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
