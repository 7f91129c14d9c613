"""What a comparison would do, without doing it: which evidence, what is missing, and roughly what it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from audit.checkpoint import Checkpoint
from audit.evidence import Collector, check_known_vectors, lacking, load_concepts
from audit.guards.saving import is_guard
from audit.metrics import concept_metrics, weights_metrics
from audit.models.pair import ModelPair, open_pair
from audit.progress import SILENT
from audit.questions.further import with_further
from audit.questions.items import item_set
from audit.questions.jailbroken import with_jailbreaks
from audit.questions.readings import forward_tokens
from audit.questions.skill_queries import LACKING, SkillQuestions, skill_questions
from audit.result import Plan, Planned
from audit.settings import Settings
from audit.weights.blocks import WHOLE_ELEMENTS
from audit.weights.scan import WORKERS
from concepts.concept import Concept

ANSWER_TOKENS = 8
"""Tokens of a typical generated answer: the prompts make answers short."""
SENTENCE_TOKENS = 20
"""Of an answer in a sentence."""
BYTES_PER_SECOND = 3e8
"""Reading, comparing and digesting both files, on one slow core."""
PROGRAM = 400_000_000
"""Bytes of the interpreter, torch and transformers."""
EFFICIENCY = 0.5
"""Share of the machine's matrix throughput that short prompts reach."""


def plan_comparison(
    base: Path,
    unlearned: Path,
    *,
    retained: Path | None = None,
    concepts: Sequence[str] = (),
    translations: Path | None = None,
    skills: Sequence[Path] = (),
    guard: Path | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    settings: Settings = Settings(),
) -> Plan:
    """The plan of ``compare`` with the same arguments; reads headers, the tokenizer and concept files only.

    Raises:
        AuditError: whatever would stop the comparison before its slow work.
    """
    pair = open_pair(base, unlearned, retained, config, tokenizer)
    return plan_pair(
        pair,
        concepts=concepts,
        translations=translations,
        skills=skills,
        guard=guard,
        settings=settings,
    )


def plan_pair(
    pair: ModelPair,
    *,
    concepts: Sequence[str] = (),
    translations: Path | None = None,
    skills: Sequence[Path] = (),
    guard: Path | None = None,
    settings: Settings = Settings(),
) -> Plan:
    """The plan of a comparison of models that are open already.

    Raises:
        AuditError: a concept or a tokenizer that cannot be used.
    """
    chosen = load_concepts(concepts, translations)
    if settings.known_vectors:
        check_known_vectors(chosen, pair.architecture)
    trained = skill_questions(skills, settings.seed, settings.limit, settings.run_code)
    tokenizer = pair.tokenizer
    missing = Collector(pair, chosen, settings, SILENT).missing()
    rows = [Planned(name, None, None) for name in weights_metrics()]
    rows += [row for concept in chosen for row in _planned(concept, missing | lacking(concept))]
    rows += [row for skill in trained for row in _planned(skill.topic, missing | LACKING)]
    checkpoints = [model.checkpoint for model in pair.models.values()]
    forward, written = (0, 0) if "model" in missing else _tokens(chosen, trained, tokenizer, settings)
    forward, written = forward * len(checkpoints), written * len(checkpoints)
    size = sum(_bytes(checkpoint) for checkpoint in checkpoints)
    parameters = sum(math.prod(info.shape) for info in pair.base.checkpoint.tensors.values())
    seconds = 2 * size / BYTES_PER_SECOND + 2 * parameters * (forward + written) / (EFFICIENCY * _throughput())
    return Plan(
        architecture=pair.architecture.name if pair.architecture else None,
        parameters=parameters,
        notes=[*pair.notes, *([_said_of(guard)] if guard else [])],
        metrics=rows,
        bytes_to_read=size,
        forward_tokens=forward,
        generated_tokens=written,
        seconds=seconds,
        memory_bytes=_memory(pair, parameters, named=tokenizer is not None, runs=forward > 0),
    )


def possible(pair: ModelPair) -> list[Planned]:
    """Every metric of an audit of ``pair``, with the input that the models lack for it; a concept is not asked for.

    Raises:
        ModelError: a tokenizer that cannot be read or belongs to another model.
    """
    _ = pair.tokenizer  # raises where it cannot be used
    missing = Collector(pair, (), Settings(), SILENT).missing()
    return [Planned(name, None, None) for name in weights_metrics()] + [
        Planned(name, None, next((missing[need] for need in sorted(module.NEEDS) if need in missing), None))
        for name, module in concept_metrics().items()
    ]


def _planned(concept: Concept, absent: dict[str, str]) -> list[Planned]:
    """Each metric with the first input it lacks. Whether vectors exist is known only after looking for them."""
    return [
        Planned(name, concept.name, next((absent[need] for need in sorted(module.NEEDS) if need in absent), None))
        for name, module in concept_metrics().items()
    ]


def _tokens(
    concepts: Sequence[Concept], skills: Sequence[SkillQuestions], tokenizer: Any, settings: Settings
) -> tuple[int, int]:
    """Tokens one model runs and writes."""
    forward = written = 0
    for concept in concepts:
        items = item_set(concept, tokenizer, context=1 << 30, limit=settings.limit)
        items = with_further(items, concept, tokenizer, context=1 << 30, limit=settings.limit)
        items = with_jailbreaks(items, concept, tokenizer, context=1 << 30, limit=settings.limit)
        forward += forward_tokens(items)
        written += ANSWER_TOKENS * len(items.prompts) + SENTENCE_TOKENS * len(items.further)
    for skill in skills:
        items = skill.items(tokenizer, context=1 << 30)
        forward += forward_tokens(items)
        written += ANSWER_TOKENS * len(items.prompts) + skill.longest_writing(items)
    return forward, written


def _said_of(guard: Path) -> str:
    return f"guard {guard} is {'attacked' if is_guard(guard) else 'recorded, not run'}"


def _bytes(checkpoint: Checkpoint) -> int:
    return sum(path.stat().st_size for path in checkpoint.files)


def _memory(pair: ModelPair, parameters: int, *, named: bool, runs: bool) -> int:
    """The larger of two: the weights' pass, or what comes after it.

    The pass holds two tensors as stored and their difference on each thread; large ones come in blocks. Afterwards both
    heads are read where neurons are to be named, and one float32 model runs where questions are asked.
    """
    largest = max(math.prod(info.shape) for info in pair.base.checkpoint.tensors.values())
    stored = max(info.dtype.itemsize for info in pair.base.checkpoint.tensors.values())
    comparing = WORKERS * min(largest, WHOLE_ELEMENTS) * (2 * stored + 4)
    naming = 2 * 4 * largest if named and pair.architecture else 0
    running = 4 * parameters + 8 * largest if runs else 0
    return max(comparing, naming, running) + PROGRAM


def _throughput() -> float:
    """Floating-point operations a second of a matrix product here, from one of a twentieth of a second."""
    size = 1024
    matrix = torch.ones(size, size)
    matrix @ matrix
    start, times = time.perf_counter(), 4
    for _ in range(times):
        matrix @ matrix
    return times * 2 * size**3 / (time.perf_counter() - start)
