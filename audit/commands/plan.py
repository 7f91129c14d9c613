"""plan_comparison(): the metrics of a comparison, missing inputs, and estimates of time and memory; runs no model."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from audit.attacks import AttackInput, attacks, chosen_attacks
from audit.checkpoint import Checkpoint
from audit.errors import AuditError
from audit.evidence import check_known_vectors, missing_inputs
from audit.guards.saving import is_guard
from audit.kept_readings import level_of
from audit.metrics import topic_metrics, weights_metrics
from audit.models.forward import tokens_run
from audit.models.generation import MAX_NEW_TOKENS, SENTENCE
from audit.models.pair import ModelPair, open_pair
from audit.models.tokenizer import Tokenizer
from audit.patching.collect import forward_passes, not_collected
from audit.patching.items import patch_items
from audit.questions.items import Encoder, ItemSet
from audit.questions.loading import load_topics
from audit.questions.readings import forward_tokens
from audit.questions.topics import Topic
from audit.request import Request, RunContext
from audit.result import Plan, Planned, PlannedAttack
from audit.settings import Settings
from audit.topic_reader import possible_attacks
from audit.weights.blocks import WHOLE_ELEMENTS
from audit.weights.scan import WORKERS

WRITTEN: Final[Mapping[int, int]] = {MAX_NEW_TOKENS: 8, SENTENCE: 20}
"""Maximum length of an answer -> typical length; few-shot prompts keep answers short. Longer ones count in full."""
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
    reference: Path | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    request: Request = Request(),
    context: RunContext = RunContext(),
) -> Plan:
    """The plan of ``compare`` with the same arguments; reads headers, the tokenizer and concept files only.

    Raises:
        AuditError: any error that would stop the comparison before its slow work.
    """
    pair = open_pair(base, unlearned, retained, config, tokenizer, reference)
    return plan_pair(pair, request=request, settings=context.settings)


def plan_pair(pair: ModelPair, *, request: Request = Request(), settings: Settings = Settings()) -> Plan:
    """The plan of a comparison of opened models.

    Raises:
        AuditError: a concept or a tokenizer that cannot be used.
    """
    topics = load_topics(request, settings)
    chosen_attacks(settings.attacks)  # an unknown name is an error even if no topic can be attacked
    if settings.known_vectors:
        check_known_vectors(topics, pair.architecture)
    tokenizer = pair.tokenizer
    missing = missing_inputs(pair)
    rows = [Planned(name, None, None) for name in weights_metrics()]
    inside = not_collected(settings)
    rows += [row for topic in topics for row in _planned(topic.name, missing | dict(topic.missing_inputs()) | inside)]
    checkpoints = [model.checkpoint for model in pair.models.values()]
    size = sum(_bytes(checkpoint) for checkpoint in checkpoints)
    parameters = sum(math.prod(info.shape) for info in pair.base.checkpoint.tensors.values())
    work: dict[str, _Work] = {}
    if "model" not in missing:
        assert tokenizer is not None  # otherwise the model is missing
        for topic in topics:
            for name, one in _work(topic, tokenizer, parameters, settings).items():
                times = len(checkpoints) + (pair.reference is not None) if name else len(checkpoints)
                work[name] = work.get(name, _Work()) + one * times
            if not inside:
                patched = _patching(topic, tokenizer, pair, settings)
                work[""] += _Work(forward=patched)
    total = sum(work.values(), _Work())
    per_token = 2 * parameters / (EFFICIENCY * _throughput()) if work else 0.0
    runs = _memory(pair, parameters, named=tokenizer is not None, runs=total.forward > 0)
    return Plan(
        architecture=pair.architecture.name if pair.architecture else None,
        parameters=parameters,
        notes=[*pair.notes, *_topic_notes(topics), *([_guard_note(request.guard)] if request.guard else [])],
        metrics=rows,
        bytes_to_read=size,
        forward_tokens=round(total.forward),
        generated_tokens=round(total.generated),
        trained_tokens=round(total.trained),
        seconds=2 * size / BYTES_PER_SECOND + per_token * total.passes,
        memory_bytes=max([runs, *(_attack_memory(name, parameters) for name in work if name)]),
        attacks=[
            PlannedAttack(name, attacks()[name].TITLE, per_token * one.passes, _attack_memory(name, parameters))
            for name, one in work.items()
            if name
        ],
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


@dataclass(frozen=True)
class _Work:
    """Tokens that one model runs through, generates and is trained on for one topic."""

    forward: float = 0
    generated: float = 0
    trained: float = 0

    def __add__(self, other: _Work) -> _Work:
        return _Work(self.forward + other.forward, self.generated + other.generated, self.trained + other.trained)

    def __sub__(self, other: _Work) -> _Work:
        return self + other * -1

    def __mul__(self, times: int) -> _Work:
        return _Work(self.forward * times, self.generated * times, self.trained * times)

    @property
    def passes(self) -> float:
        """Equivalent number of tokens of a forward pass: a backward pass costs two."""
        return self.forward + self.generated + 3 * self.trained


def _work(topic: Topic, tokenizer: Tokenizer, parameters: int, settings: Settings) -> dict[str, _Work]:
    """Name of each attack -> its work; ``""`` for the unmodified model."""
    encoder = Encoder(tokenizer, context=1 << 30)
    items = topic.items(encoder, settings.limit)
    given = AttackInput(None, encoder, topic, items, settings, None, parameters, level_of(settings))
    work = {"": _reading([items])}
    for name, attack in possible_attacks(topic, settings).items():
        try:
            attacked = [each for each in attack.conditions(given) if not each.optional]
        except AuditError:  # it will not run
            continue
        read = [each.items for each in attacked]
        done = (
            _reading([items, *read]) if attack.COST == "prompts" else sum((_reading([each]) for each in read), _Work())
        )
        shared = work[""] if attack.COST == "prompts" else _Work()
        trained = sum(each.trained_tokens for each in attacked)
        work[name] = _Work(done.forward - shared.forward, done.generated - shared.generated, trained)
    return work


def _patching(topic: Topic, tokenizer: Tokenizer, pair: ModelPair, settings: Settings) -> float:
    """Tokens that patching runs through, all models together, if the base says every fact."""
    items = topic.items(Encoder(tokenizer, context=1 << 30), settings.limit)
    chosen = patch_items(items, {prompt.id: True for prompt in items.written}, 1 << 30, settings.seed)
    if not chosen:
        return 0.0
    passes = forward_passes(chosen, pair.base.require_architecture(), len(pair.models) - 1)
    return passes * tokens_run([item.row for item in chosen]) / len(chosen)


def _reading(sets: Sequence[ItemSet]) -> _Work:
    written = [prompt for each in sets for prompt in each.written]
    return _Work(forward_tokens(sets), sum(_typical(each.max_new_tokens) * max(each.samples, 1) for each in written))


def _typical(max_new_tokens: int) -> int:
    return next((length for most, length in WRITTEN.items() if max_new_tokens <= most), max_new_tokens)


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


def _attack_memory(name: str, parameters: int) -> int:
    """Peak memory of an attack in bytes: the model, and a copy with gradients and two moments where it trains."""
    copies = {"prompts": 1, "passes": 2, "training": 5}[attacks()[name].COST]
    return copies * 4 * parameters + PROGRAM


def _throughput() -> float:
    """Floating-point operations per second on this machine, measured with a few matrix products."""
    size = 1024
    matrix = torch.ones(size, size)
    matrix @ matrix
    start, times = time.perf_counter(), 4
    for _ in range(times):
        matrix @ matrix
    return times * 2 * size**3 / (time.perf_counter() - start)
