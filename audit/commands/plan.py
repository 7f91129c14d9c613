"""plan_comparison(): the metrics of a comparison, missing inputs, and estimates of time and memory; runs no model."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from audit.attacks import AttackInput
from audit.checkpoint import Checkpoint
from audit.evidence import check_known_vectors, missing_inputs, possible_attacks, prompted
from audit.guards.saving import is_guard
from audit.metrics import topic_metrics, weights_metrics
from audit.models.generation import MAX_NEW_TOKENS, SENTENCE
from audit.models.pair import ModelPair, open_pair
from audit.models.tokenizer import Tokenizer
from audit.questions.items import Encoder
from audit.questions.loading import load_topics
from audit.questions.readings import forward_tokens
from audit.questions.topics import Topic
from audit.request import Request, RunContext
from audit.result import Plan, Planned
from audit.settings import Settings
from audit.weights.blocks import WHOLE_ELEMENTS
from audit.weights.scan import WORKERS

WRITTEN: Final[Mapping[int, int]] = {MAX_NEW_TOKENS: 8, SENTENCE: 20}
"""Maximum length of an answer -> typical length; few-shot prompts keep answers short. Others are counted in full."""
BYTES_PER_SECOND = 3e8
"""Speed of reading, comparing and digesting both files on one slow core."""
PROGRAM = 400_000_000
"""Memory of the interpreter, torch and transformers, in bytes."""
EFFICIENCY = 0.5
"""Share of the machine's matrix multiplication throughput that short prompts reach."""


def plan_comparison(
    base: Path,
    unlearned: Path,
    *,
    retained: Path | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    request: Request = Request(),
    context: RunContext = RunContext(),
) -> Plan:
    """The plan of ``compare`` with the same arguments; reads headers, the tokenizer and concept files only.

    Raises:
        AuditError: any error that would stop the comparison before its slow work.
    """
    pair = open_pair(base, unlearned, retained, config, tokenizer)
    return plan_pair(pair, request=request, settings=context.settings)


def plan_pair(pair: ModelPair, *, request: Request = Request(), settings: Settings = Settings()) -> Plan:
    """The plan of a comparison of opened models.

    Raises:
        AuditError: a concept or a tokenizer that cannot be used.
    """
    topics = load_topics(request, settings)
    if settings.known_vectors:
        check_known_vectors(topics, pair.architecture)
    tokenizer = pair.tokenizer
    missing = missing_inputs(pair)
    rows = [Planned(name, None, None) for name in weights_metrics()]
    rows += [row for topic in topics for row in _planned(topic.name, missing | dict(topic.missing_inputs()))]
    checkpoints = [model.checkpoint for model in pair.models.values()]
    forward = written = 0
    if "model" not in missing:
        assert tokenizer is not None  # otherwise the model is missing
        for topic in topics:
            run, answered = _tokens(topic, tokenizer, settings)
            forward, written = forward + run * len(checkpoints), written + answered * len(checkpoints)
    size = sum(_bytes(checkpoint) for checkpoint in checkpoints)
    parameters = sum(math.prod(info.shape) for info in pair.base.checkpoint.tensors.values())
    seconds = 2 * size / BYTES_PER_SECOND + 2 * parameters * (forward + written) / (EFFICIENCY * _throughput())
    return Plan(
        architecture=pair.architecture.name if pair.architecture else None,
        parameters=parameters,
        notes=[*pair.notes, *_topic_notes(topics), *([_guard_note(request.guard)] if request.guard else [])],
        metrics=rows,
        bytes_to_read=size,
        forward_tokens=forward,
        generated_tokens=written,
        seconds=seconds,
        memory_bytes=_memory(pair, parameters, named=tokenizer is not None, runs=forward > 0),
    )


def possible(pair: ModelPair) -> list[Planned]:
    """Every metric of an audit of ``pair``, with the input that is missing for it whatever the topic.

    Raises:
        ModelError: a tokenizer that cannot be read or belongs to another model.
    """
    _ = pair.tokenizer  # raises if it cannot be used
    missing = missing_inputs(pair)
    return [Planned(name, None, None) for name in weights_metrics()] + _planned(None, missing)


def _planned(topic: str | None, missing: Mapping[str, str]) -> list[Planned]:
    """Each metric with its first missing input. Whether vectors exist is known only after the search."""
    return [
        Planned(name, topic, next((missing[need] for need in sorted(metric.NEEDS) if need in missing), None))
        for name, metric in topic_metrics().items()
    ]


def _tokens(topic: Topic, tokenizer: Tokenizer, settings: Settings) -> tuple[int, int]:
    """Number of tokens that one model runs and generates for one topic, unmodified and under every attack."""
    encoder = Encoder(tokenizer, context=1 << 30)
    items = topic.items(encoder, settings.limit)
    given = AttackInput(None, encoder, topic, items, settings)
    together = [items, *(each.items for each in prompted(given))]
    apart = [
        each.items
        for attack in possible_attacks(topic)
        if attack.COST != "prompts"
        for each in attack.conditions(given)
    ]
    forward = forward_tokens(together) + sum(forward_tokens([alone]) for alone in apart)
    written = [prompt.max_new_tokens for alone in (*together, *apart) for prompt in alone.written]
    return forward, sum(WRITTEN.get(length, length) for length in written)


def _topic_notes(topics: Sequence[Topic]) -> list[str]:
    return [f"{topic.title}: {note}" for topic in topics if topic.concept is not None for note in topic.concept.notes]


def _guard_note(guard: Path) -> str:
    return f"guard {guard} is {'attacked' if is_guard(guard) else 'recorded, not run'}"


def _bytes(checkpoint: Checkpoint) -> int:
    return sum(path.stat().st_size for path in checkpoint.files)


def _memory(pair: ModelPair, parameters: int, *, named: bool, runs: bool) -> int:
    """Peak memory in bytes: the maximum over the comparison of weights and the steps after it.

    The comparison holds, in each thread, two tensors as stored and their difference; large tensors are read in blocks.
    Afterwards both heads are loaded if neurons are to be named, and one float32 model if questions are asked.
    """
    largest = max(math.prod(info.shape) for info in pair.base.checkpoint.tensors.values())
    stored = max(info.dtype.itemsize for info in pair.base.checkpoint.tensors.values())
    comparing = WORKERS * min(largest, WHOLE_ELEMENTS) * (2 * stored + 4)
    naming = 2 * 4 * largest if named and pair.architecture else 0
    running = 4 * parameters + 8 * largest if runs else 0
    return max(comparing, naming, running) + PROGRAM


def _throughput() -> float:
    """Floating-point operations per second on this machine, measured with a few matrix products."""
    size = 1024
    matrix = torch.ones(size, size)
    matrix @ matrix
    start, times = time.perf_counter(), 4
    for _ in range(times):
        matrix @ matrix
    return times * 2 * size**3 / (time.perf_counter() - start)
