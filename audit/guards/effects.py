"""What a guard does to held-out answers, skill by skill, and to neutral text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from audit.guards import Guard, on_model
from audit.guards.splits import Part
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.models.scoring import fits, scored
from audit.progress import SILENT, Progress
from concepts.concept import neutral_text
from concepts.jailbreaks import SENTENCE_END

NEUTRAL: Final = "neutral text"
STRETCH: Final = 60
"""Words of neutral text scored at once."""
GIVEN: Final = 3
"""Of them, those that come before what is scored."""


@dataclass(frozen=True)
class Effect:
    """The answers to one skill's held-out queries, or stretches of neutral text, without and with the guard.

    Attributes:
        role: ``"forget"``, ``"retain"`` or ``"text"``.
        n: held-out queries, or stretches.
        before, after: mean log-probability per token, in nats, of each answer that can be scored ``[n_scored]``.
        exact_before, exact_after: whether its every token was the most probable one ``[n_scored]``.
        tokens: that were scored.
    """

    name: str
    role: str
    n: int
    before: np.ndarray
    after: np.ndarray
    exact_before: np.ndarray
    exact_after: np.ndarray
    tokens: int

    @property
    def change(self) -> np.ndarray:
        """Of the log-probability per token ``[n_scored]``."""
        found: np.ndarray = self.after - self.before
        return found


@dataclass(frozen=True)
class Asked:
    """The held-out queries of a skill, or the stretches of neutral text, with what is scored of them.

    Attributes:
        n: how many there are, with an answer or without.
        tokens: of the answers.
    """

    name: str
    n: int
    examples: tuple[Example, ...]
    tokens: int


Scores = tuple[np.ndarray, np.ndarray]
"""Mean log-probability per token of each answer, and whether its every token was the most probable one."""


def effects(model: RunningModel, parts: Sequence[Part], guard: Guard, progress: Progress = SILENT) -> list[Effect]:
    """Held-out answers before and after, skill by skill, the one to forget first, then neutral text."""
    asked = questions(model, parts)
    before = answers(model, asked, "Answers before", progress)
    with on_model(model.model, guard, model.architecture):
        after = answers(model, asked, "Answers with the guard on", progress)
    return compared(asked, before, after)


def questions(model: RunningModel, parts: Sequence[Part]) -> list[Asked]:
    """What is asked: every skill's reporting part, then neutral text."""
    sets = [(part.title, len(part.splits.report), _examples(part, model)) for part in parts]
    text = _neutral(model)
    return [
        Asked(name, n, tuple(examples), sum(_length(model, example) for example in examples))
        for name, n, examples in [*sets, (NEUTRAL, len(text), text)]
    ]


def answers(model: RunningModel, asked: Sequence[Asked], step: str, progress: Progress = SILENT) -> list[Scores]:
    """What the model as it is makes of the answers."""
    found = []
    for done, each in enumerate(asked):
        progress.step(step, done, len(asked))
        found.append(scored(model, each.examples))
    return found


def compared(asked: Sequence[Asked], before: Sequence[Scores], after: Sequence[Scores]) -> list[Effect]:
    """Both together; the first is the skill to forget."""
    return [
        Effect(
            name=each.name,
            role="forget" if not number else "text" if each.name == NEUTRAL else "retain",
            n=each.n,
            before=first[0],
            after=second[0],
            exact_before=first[1],
            exact_after=second[1],
            tokens=each.tokens,
        )
        for number, (each, first, second) in enumerate(zip(asked, before, after, strict=True))
    ]


def neutral_sentences() -> list[str]:
    """Prompts that need no skill in particular: the sentences of the neutral text."""
    return SENTENCE_END.split(" ".join(neutral_text().split()))


def _length(model: RunningModel, example: Example) -> int:
    return len(model.tokenizer(example.answer, add_special_tokens=False)["input_ids"])


def _neutral(model: RunningModel) -> list[Example]:
    """Stretches of neutral text that fit, each with its first words given."""
    words = neutral_text().split()
    stretches = [words[start : start + STRETCH] for start in range(0, len(words) - STRETCH + 1, STRETCH)]
    examples = [Example(" ".join(some[:GIVEN]), " " + " ".join(some[GIVEN:])) for some in stretches]
    return [example for example in examples if fits(example, model)]


def _examples(part: Part, model: RunningModel) -> list[Example]:
    """Held-out queries with answers, none too long."""
    found = []
    for index in part.splits.report:
        answer = part.written(index)
        if answer is not None and fits(example := Example(part.prompts[index], answer), model):
            found.append(example)
    return found
