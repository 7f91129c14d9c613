"""What a guard does to the right answers of held-out queries, skill by skill, and to neutral text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from audit.errors import ModelError
from audit.guards.methods import Guard
from audit.guards.sites import Sites
from audit.guards.splits import TokenizedSkill
from audit.models.loading import RunningModel
from audit.models.packing import Example, tokenize
from audit.models.scoring import AnswerScores, fits, score
from audit.progress import SILENT, Progress
from concepts.concept import neutral_text

NEUTRAL: Final = "neutral text"
STRETCH_WORDS: Final = 60
"""Words of neutral text in one stretch."""
GIVEN_WORDS: Final = 3
"""First words of a stretch that are its prompt; the others are scored."""

Scorer = Callable[[RunningModel, Sequence[Example]], AnswerScores]
SkillRole = Literal["forget", "retain", "text"]


@dataclass(frozen=True)
class HeldOutAnswers:
    """The answers of one skill's held-out queries, or stretches of neutral text.

    Attributes:
        n: held-out queries, whether their answer can be scored or not; or stretches.
        examples: those that can be scored.
        tokens: tokens of these answers.
    """

    name: str
    n: int
    examples: tuple[Example, ...]
    tokens: int


@dataclass(frozen=True)
class GuardEffect:
    """Scores of the same answers without and with the guard.

    Attributes:
        n: held-out queries or stretches; those that cannot be scored included.
        tokens: tokens that were scored.
    """

    name: str
    role: SkillRole
    n: int
    before: AnswerScores
    after: AnswerScores
    tokens: int

    @property
    def change(self) -> Float[np.ndarray, " n_scored"]:
        """Change of each answer's mean log-probability per token, in nats."""
        change: np.ndarray = self.after.means - self.before.means
        return change


def check_scorable(model: RunningModel) -> None:
    """Stop where a model's answers cannot be scored, and so the effect of a guard cannot be measured.

    Raises:
        ModelError: positions are counted from the attention mask (ALiBi).
    """
    if model.alibi:
        raise ModelError(
            f"{model.architecture.name} here counts positions from the attention mask (ALiBi), so its answers cannot "
            "be scored with a guard on.",
            hint="Use --method key-space.",
        )


def guard_effects(
    model: RunningModel, skills: Sequence[TokenizedSkill], guard: Guard, progress: Progress = SILENT
) -> list[GuardEffect]:
    """Held-out answers before and after, the skill to forget first, then the other skills, then neutral text."""
    answers = held_out_answers(model, skills)
    before = score_answers(model, answers, "Answers before", progress, guard.score)
    with guard.apply(model.model, Sites.from_architecture(model.architecture)):
        after = score_answers(model, answers, "Answers with the guard on", progress, guard.score)
    return pair_scores(answers, before, after)


def held_out_answers(model: RunningModel, skills: Sequence[TokenizedSkill]) -> list[HeldOutAnswers]:
    """The answers of every skill's reported queries, then neutral text."""
    stretches = _neutral_stretches(model)
    sets = [(skill.title, len(skill.splits.report), [*_examples(skill, model)]) for skill in skills]
    return [
        HeldOutAnswers(
            name, n, tuple(examples), sum(len(tokens.answer) for tokens in tokenize(model.tokenizer, examples))
        )
        for name, n, examples in [*sets, (NEUTRAL, len(stretches), stretches)]
    ]


def score_answers(
    model: RunningModel,
    answers: Sequence[HeldOutAnswers],
    step: str,
    progress: Progress = SILENT,
    scorer: Scorer = score,
) -> list[AnswerScores]:
    """Scores of every set in turn, by ``model`` as it is now."""
    scores = []
    for done, each in enumerate(answers):
        progress.step(step, done, len(answers))
        scores.append(scorer(model, each.examples))
    return scores


def pair_scores(
    answers: Sequence[HeldOutAnswers], before: Sequence[AnswerScores], after: Sequence[AnswerScores]
) -> list[GuardEffect]:
    """The scores of each set without and with the guard; the first set is the skill to forget."""
    return [
        GuardEffect(
            name=each.name,
            role="forget" if not number else "text" if each.name == NEUTRAL else "retain",
            n=each.n,
            before=first,
            after=second,
            tokens=each.tokens,
        )
        for number, (each, first, second) in enumerate(zip(answers, before, after, strict=True))
    ]


def _neutral_stretches(model: RunningModel) -> list[Example]:
    """Stretches of neutral text that fit the context, each with its first words as the prompt."""
    words = neutral_text().split()
    starts = range(0, len(words) - STRETCH_WORDS + 1, STRETCH_WORDS)
    stretches = [words[start : start + STRETCH_WORDS] for start in starts]
    examples = [Example(" ".join(some[:GIVEN_WORDS]), " " + " ".join(some[GIVEN_WORDS:])) for some in stretches]
    return [example for example in examples if fits(example, model)]


def _examples(skill: TokenizedSkill, model: RunningModel) -> Iterator[Example]:
    """The reported queries that have an answer and fit."""
    for index in skill.splits.report:
        answer = skill.answer_text(index)
        if answer is not None and fits(example := Example(skill.prompts[index], answer), model):
            yield example
