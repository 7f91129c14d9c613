"""The logit lens through the base's norm and head, as UDS's study computes it (arXiv 2605.24614)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.exam.models import Network, Subject, asked
from benchmarks.exam.rivals._depth import kept, own

TITLE = "logit lens"
NEEDS_REFERENCE = True


def score(subject: Subject) -> float:
    """1 - erasure relative to the reference, weighted over layers."""
    known, audited, never = (_seen(subject, each) for each in (subject.base, subject.audited, subject.reference))
    return kept(known - never, known - audited)


def _seen(subject: Subject, network: Network) -> Float[Tensor, " n_layers"]:
    """The answers' mean log-probability after each block."""
    items = subject.facts.forget
    streams = network.streams(asked(items))
    return torch.stack(
        [own(subject.base.read_out(stream), item.answer) for stream, item in zip(streams, items, strict=True)]
    ).mean(0)
