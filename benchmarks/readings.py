"""Time of all passive evidence for 10 questions and 50 unrelated ones on SmolLM2, relative to plain forward passes.

Includes the questions' paraphrases and the concept's neighbours; two-hop and open questions are only generated.

Plain: the forward pass of transformers over the same sequences, each once, sorted by length in batches of the same
size, padded, without hooks, with the logits of all positions. Ours: answers, facts, key vectors and lens from
``audit.questions.readings.read``, then every metric. Generation is measured separately.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from audit.commands.demo import model_folder
from audit.metrics import measure, topic_metrics
from audit.metrics.contract import Evidence
from audit.models.forward import padded
from audit.models.loading import RunningModel
from audit.models.opening import open_model
from audit.questions.conditions import AS_IS
from audit.questions.items import Encoder, ItemSet
from audit.questions.readings import Readings, forward_tokens, generate, item_row, read
from audit.questions.topics import ConceptTopic
from audit.settings import default_cache
from benchmarks.record import publish
from concepts.concept import load_concept

RUNS = 3
BATCH = 16
GOAL = 1.5
"""Maximum ratio to the time of plain forward passes."""


def main(folder: Path | None = None) -> None:
    """Medians over several runs; plain and ours alternate, so that other load affects both."""
    model = boot(folder or model_folder(default_cache()))
    italy = load_concept("italy")
    concept = italy.model_copy(update={"questions": italy.questions[:10], "unrelated": italy.unrelated[:50]})
    topic = ConceptTopic(concept)
    items, (written, tokens), generation = answers(model, topic)
    sequences = needed(items)
    plain, reading, metrics = [], [], []
    readings = read(model, items, written, BATCH)  # warms up
    for _ in range(RUNS):
        plain.append(timed(lambda: plain_passes(model, sequences)))
        reading.append(timed(lambda: read(model, items, written, BATCH)))
        metrics.append(timed(lambda: every_metric(readings, topic)))
    base = median(plain)
    rows = [
        row("plain forward passes", base, base, sum(len(ids) for ids in sequences)),
        row("readings, one pass", median(reading), base, forward_tokens([items])),
        row("readings and all metrics", median(a + b for a, b in zip(reading, metrics, strict=True)), base, None),
        row("generation of all answers", generation, base, tokens),
    ]
    others = sum(item.kind in ("paraphrase", "neighbour") for item in items.items)
    counts = f"{len(concept.questions)} questions, {others} paraphrases and neighbours, "
    counts += f"{len(concept.unrelated)} unrelated, {len(items.groups)} groups"
    publish("readings", rows, f"{counts}; {len(sequences)} sequences; {torch.get_num_threads()} threads; goal {GOAL}")


def boot(folder: Path) -> RunningModel:
    return open_model(folder).load()


def answers(model: RunningModel, topic: ConceptTopic) -> tuple[ItemSet, tuple[dict[str, str], int], float]:
    """The items with the model's own answers, the output of ``generate``, and its duration in seconds."""
    encoder = Encoder(model.tokenizer, model.context)
    items = topic.items(encoder)
    start = time.perf_counter()
    written = generate(model, items, BATCH)
    seconds = time.perf_counter() - start
    return topic.with_own_answers(items, written[0], encoder), written, seconds


def needed(items: ItemSet) -> list[tuple[int, ...]]:
    """All distinct sequences that must be run, sorted by length."""
    scored = [item_row(item).ids for item in items.items]
    exchanged = [ids for group in items.groups for ids in group.prompt_ids]
    return sorted(set(scored + exchanged), key=len)


def plain_passes(model: RunningModel, sequences: list[tuple[int, ...]]) -> None:
    with torch.inference_mode():
        for begin in range(0, len(sequences), BATCH):
            model.model(**padded(model, sequences[begin : begin + BATCH], 0), use_cache=False)


def every_metric(readings: Readings, topic: ConceptTopic) -> None:
    """All metrics of one pair, with the same readings for both models."""
    missing = {"vectors": "not part of this benchmark", "jailbreaks": "not part of this benchmark"}
    by_condition = {AS_IS: {"base": readings, "unlearned": readings}}
    evidence = Evidence(None, topic, by_condition, missing=missing)  # type: ignore[arg-type]  # no metric reads files
    for name in topic_metrics():
        measure(name, evidence)


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(what: str, seconds: float, plain: float, tokens: int | None) -> dict[str, Any]:
    return {
        "what": what,
        "median s": seconds,
        "times plain": seconds / plain,
        "tokens run": "" if tokens is None else tokens,
        "reached": seconds / plain <= GOAL,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
