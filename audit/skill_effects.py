"""What a guard does to held-out answers, skill by skill, and to neutral text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

import numpy as np

from audit.ablation import Subject
from audit.guards import Guard, HeldOut, on_model
from audit.progress import Progress
from audit.result import Interval
from audit.running import RunningModel
from audit.scoring import fits, scored
from audit.statistics import bootstrap_interval
from audit.unlearning.packing import Example
from concepts.concept import neutral_text
from concepts.jailbreaks import SENTENCE_END
from concepts.skill import Skill, Splits

STRETCH: Final = 60
"""Words of neutral text scored at once."""
ATTACKED: Final = 40
"""Held-out queries of the skill, and of the others together, that are saved with a guard to attack it with."""


@dataclass(frozen=True)
class Part:
    """One skill as the model reads it.

    Attributes:
        ids: token ids of every prompt that fits the context.
        splits: indices of these prompts.
        left_out: prompts that are longer.
    """

    skill: Skill
    prompts: tuple[str, ...]
    answers: tuple[str | None, ...]
    ids: tuple[tuple[int, ...], ...]
    splits: Splits
    left_out: int

    def some(self, part: str) -> list[tuple[int, ...]]:
        return [self.ids[index] for index in getattr(self.splits, part)]


@dataclass(frozen=True)
class Row:
    """What the guard does to the held-out queries of one skill, or to neutral text."""

    skill: str
    role: str
    n: int
    inside: float | None = None
    inside_interval: Interval | None = None
    scored: int = 0
    before: float | None = None
    after: float | None = None
    change: float | None = None
    change_interval: Interval | None = None
    exact_before: float | None = None
    exact_after: float | None = None

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def effects(subject: Subject, parts: Sequence[Part], guard: Guard, seed: int, progress: Progress) -> list[Row]:
    """Held-out answers before and after, skill by skill, then neutral text."""
    model = subject.model
    asked = [(part, _examples(part, model)) for part in parts]
    neutral = _neutral(model)
    everything = [*(found for _, found in asked), neutral]
    progress.step("Answers before")
    scores = [[scored(model, examples) for examples in everything]]
    progress.step("Answers with the guard on")
    with on_model(model.model, guard, subject.architecture):
        scores.append([scored(model, examples) for examples in everything])
    rows = []
    for number, (part, _) in enumerate(asked):
        rows.append(
            _row(part.skill.title, "retain" if number else "forget", len(part.splits.report), scores, number, seed)
        )
    rows.append(_row("neutral text", "text", len(neutral), scores, len(asked), seed))
    return rows


def _neutral(model: RunningModel) -> list[Example]:
    """Stretches of neutral text that fit, each with its first words given."""
    words = neutral_text().split()
    stretches = [words[start : start + STRETCH] for start in range(0, len(words) - STRETCH + 1, STRETCH)]
    examples = [Example(" ".join(some[:3]), " " + " ".join(some[3:])) for some in stretches]
    return [example for example in examples if fits(example, model)]


def neutral_sentences() -> list[str]:
    """Prompts that need no skill in particular: the sentences of the neutral text."""
    return SENTENCE_END.split(" ".join(neutral_text().split()))


def held_out(parts: Sequence[Part], forget: bool) -> list[HeldOut]:
    """Up to ``ATTACKED`` queries of the reporting parts, each skill in turn."""
    queries = [
        [
            HeldOut(
                forget=forget,
                prompt=part.prompts[index],
                answer=_written(part, index),
                paraphrases=part.skill.queries[index].paraphrases,
                translations=part.skill.queries[index].translations,
            )
            for index in part.splits.report
        ]
        for part in parts
    ]
    in_turn = [query for turn in zip_longest(*queries) for query in turn if query is not None]
    return in_turn[:ATTACKED]


def _written(part: Part, index: int) -> str | None:
    """The answer as it follows the prompt: a program as it is, anything else after a space."""
    answer = part.answers[index]
    if answer is None or not answer.strip():
        return None
    return answer if part.skill.checker == "code" else f" {answer.strip()}"


def _examples(part: Part, model: RunningModel) -> list[Example]:
    """Held-out queries with answers, none too long."""
    found = []
    for index in part.splits.report:
        answer = _written(part, index)
        if answer is not None and fits(example := Example(part.prompts[index], answer), model):
            found.append(example)
    return found


def _row(
    name: str, role: str, n: int, scores: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]], at: int, seed: int
) -> Row:
    (before, exact_before), (after, exact_after) = scores[0][at], scores[1][at]
    if not before.size:
        return Row(name, role, n)
    return Row(
        skill=name,
        role=role,
        n=n,
        scored=len(before),
        before=float(before.mean()),
        after=float(after.mean()),
        change=float((after - before).mean()),
        change_interval=bootstrap_interval(after - before, seed=seed),
        exact_before=float(exact_before.mean()) if role != "text" else None,
        exact_after=float(exact_after.mean()) if role != "text" else None,
    )
