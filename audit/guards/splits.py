"""Skills as a guard reads them: held against each other as files, then in token ids, split by seed in three.

Fitted on the first part, thresholds and layers chosen on the second, reported on the third. What would only fail after
slow work is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

from audit.errors import AuditError
from audit.guards import HeldOut
from audit.models.loading import RunningModel
from concepts.files import ConceptFileError
from concepts.prompts import normalise
from concepts.regions import conformal_place
from concepts.skill import Query, Skill, Splits, load_skill, split

FEWEST: Final = 6
"""Different queries of a skill below which no part is worth anything."""
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

    @property
    def title(self) -> str:
        return self.skill.title

    def some(self, part: str) -> list[tuple[int, ...]]:
        return [self.ids[index] for index in getattr(self.splits, part)]

    def written(self, index: int) -> str | None:
        """The answer as it follows the prompt: a program as it is, anything else after a space."""
        answer = self.answers[index]
        if answer is None or not answer.strip():
            return None
        return answer if self.skill.checker == "code" else f" {answer.strip()}"


def read_skills(paths: Sequence[Path], limit: int | None = None) -> list[Skill]:
    """The skills, the one to forget first, each once and none sharing a query with the first.

    Args:
        limit: at most this many queries of each.

    Raises:
        AuditError: a file that cannot be read, no other skill, two of one name, an overlap, or too few queries.
    """
    if len(paths) < 2:
        raise AuditError("there is nothing to hold the skill against.", hint="Give at least one --retain skill.")
    try:
        skills = [load_skill(path) for path in paths]
    except ConceptFileError as error:
        raise AuditError(str(error)) from error
    first = {_bare(query) for query in skills[0].queries}
    for path, skill in zip(paths[1:], skills[1:], strict=True):
        both = sum(_bare(query) in first for query in skill.queries)
        if both:
            raise AuditError(
                f"{both} queries of {path.name} are among those to forget.", hint="Leave them in one of the skills."
            )
    titles = [skill.title for skill in skills]
    for title in titles:
        if titles.count(title) > 1:
            raise AuditError(
                f"two of the skills are called {title!r}.",
                hint="Give each once, under a name (or title) of its own: the report tells them apart by it.",
            )
    kept = [skill.model_copy(update={"queries": skill.queries[:limit]}) for skill in skills]
    for skill in kept:
        refuse_few(skill)
    return kept


def _bare(query: Query) -> str:
    """By which queries are the same: the prompt without case and punctuation, as the split sees it."""
    return normalise(query.prompt) or query.prompt


def refuse_few(skill: Skill, context: int | None = None) -> None:
    """Stop where a skill has too few different queries.

    Args:
        context: tokens that the model reads, where the queries are those that fit.

    Raises:
        AuditError: fewer than ``FEWEST``.
    """
    different = len({_bare(query) for query in skill.queries})
    if different < FEWEST:
        within = "" if context is None else f" shorter than the model's {context} tokens"
        raise AuditError(
            f"{skill.title} has {different} different queries{within}; {FEWEST} are needed to fit, choose and report.",
            hint="Give more queries." if context is None else "Give shorter queries.",
        )


def refuse_few_to_choose(skill: Skill, splits: Splits, misses: float) -> None:
    """Stop where the queries that choose the threshold cannot keep the share that may be missed.

    Raises:
        AuditError: saying how many queries, or which share, would do.
    """
    try:
        conformal_place(len(splits.choose), misses)
    except ValueError as error:
        if not 0 < misses < 1:
            raise AuditError(f"--misses is {misses:g}.", hint="Give a share between 0 and 1.") from error
        needed = 3 * (math.ceil(1 / misses - 1e-9) - 1) - 1  # a third of them chooses
        enough = math.ceil(1000 / (len(splits.choose) + 1)) / 1000
        raise AuditError(
            f"{len(skill.queries)} queries of {skill.title} are too few to miss {misses:.2%} of them: a third chooses "
            f"the threshold, so {needed} different ones are needed.",
            hint=f"Give more queries, or --misses {enough:g} or more.",
        ) from error


def as_part(skill: Skill, model: RunningModel, seed: int) -> Part:
    """``skill`` in token ids, split by ``seed``.

    Raises:
        AuditError: a prompt without a token, or too few prompts that fit the model's context.
    """
    encoded = [(query, tuple(model.tokenizer(query.prompt)["input_ids"])) for query in skill.queries]
    empty = next((query.prompt for query, ids in encoded if not ids), None)
    if empty is not None:
        raise AuditError(f"the query {empty!r} of {skill.title} holds no token.", hint="Leave it out.")
    kept = [(query, ids) for query, ids in encoded if len(ids) < model.context]
    short = skill.model_copy(update={"queries": tuple(query for query, _ in kept)})
    refuse_few(short, model.context)
    return Part(
        skill=short,
        prompts=tuple(query.prompt for query, _ in kept),
        answers=tuple(query.answer for query, _ in kept),
        ids=tuple(ids for _, ids in kept),
        splits=split(short, seed),
        left_out=len(encoded) - len(kept),
    )


def held_out(parts: Sequence[Part], forget: bool) -> list[HeldOut]:
    """Up to ``ATTACKED`` queries of the reporting parts, each skill in turn."""
    queries = [
        [
            HeldOut(
                forget=forget,
                prompt=part.prompts[index],
                answer=part.written(index),
                paraphrases=part.skill.queries[index].paraphrases,
                translations=part.skill.queries[index].translations,
            )
            for index in part.splits.report
        ]
        for part in parts
    ]
    in_turn = [query for turn in zip_longest(*queries) for query in turn if query is not None]
    return in_turn[:ATTACKED]
