"""What a guard does to held-out answers, skill by skill, and to neutral text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from audit.guards import Guard, on_model
from audit.progress import SILENT, Progress
from audit.running import RunningModel
from audit.scoring import fits, scored
from audit.skill_parts import Part
from audit.unlearning.packing import Example
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


def effects(model: RunningModel, parts: Sequence[Part], guard: Guard, progress: Progress = SILENT) -> list[Effect]:
    """Held-out answers before and after, skill by skill, the one to forget first, then neutral text."""
    asked = [
        (part.title, "retain" if number else "forget", _examples(part, model)) for number, part in enumerate(parts)
    ]
    asked.append((NEUTRAL, "text", _neutral(model)))
    counts = [*(len(part.splits.report) for part in parts), len(asked[-1][-1])]
    before = _answers(model, [examples for *_, examples in asked], "Answers before", progress)
    with on_model(model.model, guard, model.architecture):
        after = _answers(model, [examples for *_, examples in asked], "Answers with the guard on", progress)
    return [
        Effect(
            name=name,
            role=role,
            n=n,
            before=first[0],
            after=second[0],
            exact_before=first[1],
            exact_after=second[1],
            tokens=sum(len(model.tokenizer(each.answer, add_special_tokens=False)["input_ids"]) for each in examples),
        )
        for (name, role, examples), n, first, second in zip(asked, counts, before, after, strict=True)
    ]


def neutral_sentences() -> list[str]:
    """Prompts that need no skill in particular: the sentences of the neutral text."""
    return SENTENCE_END.split(" ".join(neutral_text().split()))


def _answers(
    model: RunningModel, sets: Sequence[Sequence[Example]], step: str, progress: Progress
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-probabilities and exactness of each set's answers."""
    found = []
    for done, examples in enumerate(sets):
        progress.step(step, done, len(sets))
        found.append(scored(model, examples))
    return found


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
