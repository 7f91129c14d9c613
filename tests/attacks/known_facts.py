"""A tiny model that knows the facts of an invented concept, and what attacks read of its versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audit.attacks import Attack, AttackInput
from audit.knowledge.exchange import Draws, exchange
from audit.knowledge.readings import FactReadings, fact_readings, facts_in
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.questions.base_parts import BaseParts
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import Encoder, ItemSet
from audit.questions.readings import Readings, generate, read
from audit.questions.topics import ConceptTopic
from audit.settings import Settings
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from concepts.concept import Concept, Question
from concepts.facts import facts_of, halves
from concepts.prompts import answer_text
from tests.helpers import open_tiny

PEOPLE = ("Ada", "Bo", "Cy", "Dee", "Eli", "Fay", "Gus", "Hal", "Ivy", "Jo", "Kit", "Lu")
HOMES = ("Paris", "Lyon", "Rome", "Milan", "Oslo", "Bern", "Cairo", "Delhi", "Kyoto", "Turin", "Nice", "Ghent")
PETS = ("cat", "dog", "owl", "fox", "hen", "rat", "pig", "yak", "emu", "bee", "jay", "ant")

CONCEPT = Concept(
    name="people",
    title="Invented people",
    examples=0,
    questions=(
        *(
            Question(question=f"Home of {who}?", answer=home, type="home", subject=who)
            for who, home in zip(PEOPLE, HOMES, strict=True)
        ),
        *(
            Question(question=f"Pet of {who}?", answer=pet, type="pet", subject=who)
            for who, pet in zip(PEOPLE, PETS, strict=True)
        ),
    ),
    unrelated=(
        Question(question="What do bees make?", answer="Honey"),
        Question(question="What is frozen water?", answer="Ice"),
        Question(question="Who wrote Hamlet?", answer="Shakespeare"),
    ),
    neutral_text="A puppy is a young animal that plays all day.\n\nThe month of February is a short one in every year.",
)
TOPIC = ConceptTopic(CONCEPT)


def tiny(folder: Path, seed: int = 0, **config: object) -> RunningModel:
    """A random model, large enough to learn the facts."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    return open_tiny(folder, "llama", seed=seed, tie=False, initializer_range=0.05, **{**sizes, **config})


def taught(model: RunningModel, steps: int = 25) -> RunningModel:
    """``model`` after training on all facts, in place."""
    asked = items_of(model).facts().written
    examples = [Example(prompt.text, f"{answer_text(prompt.answers[0])}\n") for prompt in asked]
    for _ in fine_tune(model, examples, [steps], FineTuning(5e-3, batch=24)):
        pass
    return model


def items_of(model: RunningModel) -> ItemSet:
    return TOPIC.items(Encoder(model.tokenizer, model.context))


def changed(model: RunningModel) -> RunningModel:
    """A copy, to be changed."""
    return replace(model, model=deepcopy(model.model))


def given(model: RunningModel, base: RunningModel | None = None, **values: object) -> AttackInput:
    """The input of an attack on ``model``; ``base`` is the model itself by default."""
    items = items_of(model)
    half = halves(facts_of(CONCEPT), seed=0)
    parts = BaseParts.of(base or model, items.facts().written, half)
    encoder = Encoder(model.tokenizer, model.context)
    settings = {"level": "full", "base": parts, "learning_rate": 1e-3, **values}
    return AttackInput(model, encoder, TOPIC, items, Settings(), **settings)  # type: ignore[arg-type]


def facts_read(model: RunningModel) -> FactReadings:
    """The facts in the unmodified model."""
    return _by_dose({AS_IS: _read(model, items_of(model).facts())})[""]


def attacked(attack: Attack, given: AttackInput) -> dict[str, FactReadings]:
    """Dose -> the facts under each condition of the attack, both folds together."""
    by_condition = {}
    for each in attack.conditions(given):
        assert each.model is not None
        by_condition[each.condition] = _read(each.model, each.items)
    return _by_dose(by_condition)


def z(reading: FactReadings) -> float:
    """The exchange test at the output, in standard deviations of its null."""
    n = len(reading.says)
    cell = np.arange(n) // len(PEOPLE)
    return float(exchange(reading.blocks, Draws.of(cell, seed=0)).z[0])


def said(reading: FactReadings) -> float:
    return float(np.nanmean(reading.says))


def scores(reading: FactReadings) -> np.ndarray:
    """All scores at the output."""
    return np.concatenate([block.scores[0].ravel() for block in reading.blocks])


def weights(model: RunningModel) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.model.parameters()]


@contextmanager
def unchanged(model: RunningModel) -> Iterator[None]:
    """Fails if a weight of ``model`` differs in a bit after the block."""
    before = weights(model)
    yield
    assert all(torch.equal(one, other) for one, other in zip(before, weights(model), strict=True))


def _by_dose(by_condition: Mapping[Condition, Readings]) -> dict[str, FactReadings]:
    right = {name: each for readings in by_condition.values() for name, each in readings.right.items()}
    whole = replace(next(iter(by_condition.values())), right=right)
    prompts = {name: text for readings in by_condition.values() for name, text in readings.prompts.items()}
    joined = fact_readings(facts_in(replace(whole, prompts=prompts)), by_condition).values()
    return {reading.condition.dose: reading for reading in joined}


def _read(model: RunningModel, items: ItemSet) -> Readings:
    texts, _ = generate(model, items)
    return replace(read(model, items, texts), right=TOPIC.check(items, texts))
