"""The unlearning depth score (arXiv 2605.24614): the base answers from the audited model's residual stream.

Stage 1 patches the reference's stream into the base after each block, where the answer is predicted; the layers at
which the answer becomes less probable encode it. Stage 2 patches the audited model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
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
    means = [_of_answer(base.network, *row, own) for row, own in zip(rows, streams, strict=True)]
    return torch.stack(means).mean(0)


def _of_answer(
    network: Any, prompt: Ids, answer: Ids, given: Float[Tensor, "n_layers n_answer d_model"]
) -> Float[Tensor, " n_layers"]:
    """One answer's mean log-probability; row ``l`` of a batch is patched after block ``l``, where tokens are predicted.

    No stream of the prompt but that of its last token is patched, so the others are computed once.
    """
    n_layers, n_answer, _ = given.shape
    ids = torch.tensor([[prompt[-1], *answer[:-1]]]).expand(n_layers, n_answer)
    with torch.no_grad():
        before = network(torch.tensor([prompt[:-1]]), use_cache=True).past_key_values
        before.batch_repeat_interleave(n_layers)
        with _replaced(network, given):
            logits = network(ids, past_key_values=before).logits
    wanted = torch.tensor(answer).expand(n_layers, n_answer)[..., None]
    said: Tensor = logits.float().log_softmax(-1).gather(2, wanted)[..., 0]
    return said.mean(1)


@contextmanager
def _replaced(network: Any, given: Float[Tensor, "n_layers n_answer d_model"]) -> Iterator[None]:
    """Replace the output of block ``l`` in row ``l`` of a batch with a row for each block."""

    def replaced(layer: int, _: Any, __: Any, output: Any) -> Any:
        stream = first(output).clone()
        stream[layer] = given[layer]
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    layers = network.model.layers
    handles = [layer.register_forward_hook(partial(replaced, number)) for number, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
