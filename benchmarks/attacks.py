"""Time of the passive evidence with the quick attacks, and of relearning, for one model: SmolLM2 and 26 facts of Italy.

    python -m benchmarks.attacks [--device cuda]

Needed: plain forward passes of transformers over every distinct sequence of every condition, once: each scored answer
after its question, and each written answer after its prompt. Sorted by length, padded, in batches of the same size. The
attacks that change weights run their passes again for each dose. Ours: everything that ``TopicReader`` does with the
base, without the twin. Relearning: 16 steps on each half of the facts, with the readings of the other half.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import torch

from audit.attacks import AttackInput, relearning
from audit.commands.demo import model_folder
from audit.models.forward import padded
from audit.models.loading import RunningModel
from audit.models.opening import open_model
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import Encoder, ItemSet
from audit.questions.readings import Readings, forward_rows
from audit.questions.topics import ConceptTopic
from audit.request import RunContext
from audit.settings import Settings, default_cache
from audit.topic_reader import TopicReader
from benchmarks.record import publish
from concepts.concept import load_concept

FACTS: Final = 26
BATCH: Final = 16
RUNS: Final = 2
STEPS: Final = 16
LEARNING_RATE: Final = 1e-4
"""Of the demo's twin."""
GOALS: Final = {
    "cpu": "goals: at most 1.3 times the needed passes and 60 s; relearning under 180 s",
    "cuda": "goal: relearning under 10 s",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--device", choices=list(GOALS), default="cpu")
    device = parser.parse_args().device
    model = open_model(model_folder(default_cache())).load(device)
    topic = ConceptTopic(load_concept("italy"))
    settings = Settings(limit=FACTS, batch_size=BATCH, device=device)
    reader, ours = read(model, topic, settings)
    needed = list(sequences(reader, model))
    plain = min(timed(model, needed) for _ in range(RUNS))
    trained = relearned(model, topic, reader, replace(settings, relearning_steps=(STEPS,)))
    rows = [
        {"what": "needed forward passes", "seconds": plain, "times": 1.0},
        {"what": "passive evidence and quick attacks without training", "seconds": ours, "times": ours / plain},
        {"what": f"relearning, {STEPS} steps on each half", "seconds": trained, "times": None},
    ]
    conditions = f"{FACTS} facts, {len(reader.by_condition)} conditions, {len(needed)} sequences"
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    publish("attacks" if device == "cpu" else f"attacks_{device}", rows, f"{conditions}; {where}; {GOALS[device]}")


def read(model: RunningModel, topic: ConceptTopic, settings: Settings) -> tuple[TopicReader, float]:
    """What was read, and the shortest duration of several runs in seconds."""
    durations = []
    for _ in range(RUNS):
        reader = TopicReader(topic, RunContext(settings), {})
        reader.attacks = {name: each for name, each in reader.attacks.items() if each.COST != "training"}
        started = time.perf_counter()
        reader.read(model, "base")
        durations.append(time.perf_counter() - started)
    return reader, min(durations)


def sequences(reader: TopicReader, model: RunningModel) -> Iterator[tuple[int, ...]]:
    """Every sequence of every condition; those of conditions that share a forward pass once."""
    together: dict[tuple[int, ...], None] = {}
    given = reader._given(model, Encoder(model.tokenizer, model.context), reader.items)
    items: Mapping[Condition, ItemSet] = {AS_IS: reader.items}
    for attack in reader.attacks.values():
        planned = {each.condition: each.items for each in attack.conditions(replace(given, model=None))}
        if attack.COST == "prompts":
            items = {**items, **planned}
            continue
        for condition, each in planned.items():
            yield from dict.fromkeys(_of(each, reader.by_condition[condition]["base"], model))
    for condition, each in items.items():
        if condition in reader.by_condition:
            together |= dict.fromkeys(_of(each, reader.by_condition[condition]["base"], model))
    yield from together


def _of(items: ItemSet, readings: Readings, model: RunningModel) -> Iterator[tuple[int, ...]]:
    """The scored sequences, and each prompt with the answer that the model wrote."""
    yield from (row.ids for row in forward_rows(items))
    for prompt in items.written:
        answer = model.tokenizer(readings.generated[prompt.id], add_special_tokens=False)["input_ids"]
        yield (*prompt.ids, *answer)


def timed(model: RunningModel, needed: list[tuple[int, ...]]) -> float:
    ordered = sorted(needed, key=len)
    started = time.perf_counter()
    with torch.inference_mode():
        for begin in range(0, len(ordered), BATCH):
            model.model(**padded(model, ordered[begin : begin + BATCH], 0), use_cache=False)
    finish(model)
    return time.perf_counter() - started


def finish(model: RunningModel) -> None:
    """Wait until a GPU has done what it was given."""
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def relearned(model: RunningModel, topic: ConceptTopic, reader: TopicReader, settings: Settings) -> float:
    """Seconds of training on each half and reading the other; the shortest of several runs."""
    return min(_relearned(model, topic, reader, settings) for _ in range(RUNS))


def _relearned(model: RunningModel, topic: ConceptTopic, reader: TopicReader, settings: Settings) -> float:
    encoder = Encoder(model.tokenizer, model.context)
    given = AttackInput(model, encoder, topic, topic.items(encoder, FACTS), settings, LEARNING_RATE)
    started = time.perf_counter()
    for each in relearning.conditions(given):
        reader._read_alone(each, given, through_base=True)
    finish(model)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
