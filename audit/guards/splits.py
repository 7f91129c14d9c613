"""Skills as a guard reads them: checked against each other as files, then tokenized, and split by seed in three.

A guard is fitted on the first split, thresholds and layers are chosen on the second, and the third is reported. What
would only fail after slow work is an error here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example
from concepts.files import ConceptFileError
from concepts.prompts import normalise
from concepts.regions import conformal_place
from concepts.skill import Query, Skill, Splits, load_skill, split

FEWEST_QUERIES: Final = 6
"""Different queries of a skill; with fewer, no split is large enough to be of use."""
ATTACK_QUERIES: Final = 40
"""Held-out queries of the skill, and of the others together, that are saved with a guard to attack it with."""

PLAIN: Final = "{}"
"""The form in which a query is put as it is written."""

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class TokenizedSkill:
    """One skill as the model reads it; a query too long for the model's context has no prompt here.

    Attributes:
        prompts: as the model reads them.
        ids: token ids of every prompt.
        splits: indices of the prompts.
        form: how a query is put; ``{}`` stands for its words.
        too_long: number of queries that were skipped because they do not fit the context.
    """

    skill: Skill
    prompts: tuple[str, ...]
    answers: tuple[str | None, ...]
    ids: tuple[TokenIds, ...]
    splits: Splits
    too_long: int
    form: str = PLAIN

    @property
    def title(self) -> str:
        return self.skill.title

    def ids_of(self, name: Literal["fit", "choose", "report"]) -> list[TokenIds]:
        """Token ids of the prompts of one split."""
        return [self.ids[index] for index in getattr(self.splits, name)]

    def wordings_of(self, name: Literal["fit", "choose", "report"]) -> list[tuple[int, str]]:
        """Every wording of the queries of one split as the model reads it, each with its query's index."""
        return [
            (index, self.form.replace("{}", wording))
            for index in getattr(self.splits, name)
            for wording in (self.skill.queries[index].prompt, *self.skill.queries[index].paraphrases)
        ]

    def answer_text(self, index: int) -> str | None:
        """The answer as it follows the prompt: a program unchanged, anything else after a space."""
        answer = self.answers[index]
        if answer is None or not answer.strip():
            return None
        return answer if self.skill.checker == "code" else f" {answer.strip()}"


class HeldOutQuery(BaseModel):
    """A query that the guard was not fitted on, saved so that the guard can be attacked with it.

    Attributes:
        forget: whether it needs the guarded skill.
        answer: as it follows the prompt, white space included.
        form: how a wording of it is put to the model; ``{}`` stands for the wording.
        paraphrases, translations: the query in other words and in other languages, where the skill's file has them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    forget: bool
    prompt: str = Field(min_length=1)
    answer: str | None = None
    paraphrases: tuple[str, ...] = ()
    translations: Mapping[str, str] = Field(default_factory=dict)
    form: str = Field(PLAIN, pattern=r"\{\}")

    def put(self, wording: str) -> str:
        """``wording`` as the model reads it."""
        return self.form.replace("{}", wording)

    def example(self, prompt: str | None = None) -> Example | None:
        """The query, or what the model reads in its place (``prompt``), with its right answer."""
        if self.answer is None or not self.answer.strip():
            return None
        return Example(self.put(self.prompt) if prompt is None else prompt, self.answer)


def read_skills(paths: Sequence[Path], limit: int | None = None) -> list[Skill]:
    """The skills, the one to forget first, each once and none sharing a query with the first.

    Args:
        limit: at most this many queries of each.

    Raises:
        AuditError: a file that cannot be read, no other skill, two of one name, an overlap, or too few queries.
    """
    if len(paths) < 2:
        raise AuditError("there is no skill to compare with.", hint="Give at least one --retain skill.")
    try:
        skills = [load_skill(path) for path in paths]
    except ConceptFileError as error:
        raise AuditError(str(error)) from error
    check_apart(skills)
    kept = [skill.model_copy(update={"queries": skill.queries[:limit]}) for skill in skills]
    for skill in kept:
        check_enough_queries(skill)
    return kept


def check_enough_queries(skill: Skill, context: int | None = None) -> None:
    """Stop where a skill has too few different queries.

    Args:
        context: tokens that the model reads, where ``skill`` holds the queries that fit.

    Raises:
        AuditError: fewer than ``FEWEST_QUERIES``.
    """
    different = len({_comparable(query) for query in skill.queries})
    if different < FEWEST_QUERIES:
        within = "" if context is None else f" shorter than the model's {context} tokens"
        raise AuditError(
            f"{skill.title} has {different} different queries{within}; {FEWEST_QUERIES} are needed to fit, choose and "
            "report.",
            hint="Give more queries." if context is None else "Give shorter queries.",
        )


def check_enough_to_choose(skill: Skill, splits: Splits, misses: float) -> None:
    """Stop where the queries that choose the threshold are too few for the share that may be missed.

    Raises:
        AuditError: says how many queries, or which share, would be enough.
    """
    try:
        conformal_place(len(splits.choose), misses)
    except ValueError as error:
        if not 0 < misses < 1:
            raise AuditError(f"misses is {misses:g}.", hint="Give a share between 0 and 1.") from error
        needed = 3 * (math.ceil(1 / misses - 1e-9) - 1) - 1  # a third of them chooses
        enough = math.ceil(1000 / (len(splits.choose) + 1)) / 1000
        raise AuditError(
            f"{len(skill.queries)} queries of {skill.title} are too few to miss {misses:.2%} of them: a third chooses "
            f"the threshold, so {needed} different ones are needed.",
            hint=f"Give more queries, or misses of {enough:g} or more.",
        ) from error


def tokenize_skill(skill: Skill, model: RunningModel, seed: int, form: str = PLAIN) -> TokenizedSkill:
    """``skill`` in token ids, split by ``seed``.

    Args:
        form: see ``TokenizedSkill``.

    Raises:
        AuditError: a prompt without a token, or too few prompts that fit the model's context.
    """
    prompts = [form.replace("{}", query.prompt) for query in skill.queries]
    encoded = [(at, prompt, tuple(model.tokenizer(prompt)["input_ids"])) for at, prompt in enumerate(prompts)]
    empty = next((prompt for _, prompt, ids in encoded if not ids), None)
    if empty is not None:
        raise AuditError(f"the query {empty!r} of {skill.title} holds no token.", hint="Leave it out.")
    kept = [(at, prompt, ids) for at, prompt, ids in encoded if len(ids) < model.context]
    fitting = skill.model_copy(update={"queries": tuple(skill.queries[at] for at, _, _ in kept)})
    check_enough_queries(fitting, model.context)
    return TokenizedSkill(
        skill=fitting,
        prompts=tuple(prompt for _, prompt, _ in kept),
        answers=tuple(query.answer for query in fitting.queries),
        ids=tuple(ids for _, _, ids in kept),
        splits=split(fitting, seed),
        too_long=len(encoded) - len(kept),
        form=form,
    )


def attack_queries(skills: Sequence[TokenizedSkill]) -> list[HeldOutQuery]:
    """Queries to attack a guard of the first skill with: its own, then those of the others."""
    return [*held_out_queries(skills[:1], forget=True), *held_out_queries(skills[1:], forget=False)]


def held_out_queries(skills: Sequence[TokenizedSkill], forget: bool) -> list[HeldOutQuery]:
    """Up to ``ATTACK_QUERIES`` queries of the reported splits, the skills taking turns."""
    queries = [
        [
            HeldOutQuery(
                forget=forget,
                prompt=skill.skill.queries[index].prompt,
                answer=skill.answer_text(index),
                paraphrases=skill.skill.queries[index].paraphrases,
                translations=skill.skill.queries[index].translations,
                form=skill.form,
            )
            for index in skill.splits.report
        ]
        for skill in skills
    ]
    alternating = [query for turn in zip_longest(*queries) for query in turn if query is not None]
    return alternating[:ATTACK_QUERIES]


def check_apart(skills: Sequence[Skill]) -> None:
    """Raises AuditError where another skill has a query of the first, or two have one title."""
    first = {_comparable(query) for query in skills[0].queries}
    for skill in skills[1:]:
        shared = sum(_comparable(query) in first for query in skill.queries)
        if shared:
            raise AuditError(
                f"{shared} queries of {skill.title} are among those to forget.", hint="Leave them in one of the skills."
            )
    titles = [skill.title for skill in skills]
    repeated = next((title for title in titles if titles.count(title) > 1), None)
    if repeated is not None:
        raise AuditError(
            f"two of the skills are called {repeated!r}.",
            hint="Give each once, under a name (or title) of its own: the report distinguishes them by it.",
        )


def _comparable(query: Query) -> str:
    """The prompt without case and punctuation, as the split compares queries."""
    return normalise(query.prompt) or query.prompt
