"""A skill as a topic: its queries, compared with those of other skills or with unrelated questions.

What comes out is an ``ItemSet``, so that every metric that reads questions reads skills too. Key vectors are read at
the end of a query as it is written; where it is answered, it is put as a question, without examples before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from audit.errors import ConceptError
from audit.models.generation import MAX_NEW_TOKENS
from audit.questions.items import Encoder, Item, ItemSet, Prompt, Skipped, neutral_items, with_own_answers
from audit.questions.kinds import kinds
from audit.questions.sandbox import passes
from concepts.concept import shipped_unrelated
from concepts.files import ConceptFileError
from concepts.prompts import ASK, answer_text, cut, normalise
from concepts.skill import Query, Skill, is_right, load_skill

QUERIES: Final = 60
"""Queries of a skill, and as many of all others together."""
CHECKED: Final = 24
"""Queries of each kind whose worked answer or program is written out and checked."""
LONG: Final = 200
"""Tokens of such an answer."""
ONLY_AS_WRITTEN: Final = "queries of a skill are asked in their own words alone"
MISSING: Final = {
    "groups": "queries of a skill have no typed groups",
    "vectors": "a skill has no words by which its value vectors could be found",
    "jailbreaks": "queries of a skill are not asked under jailbreak prompts",
    "neighbours": "a skill has no neighbouring questions",
    "further": "a skill has no two-hop or open questions",
}
"""Inputs of ``NEEDS`` that no skill has; of further kinds of question see ``ONLY_AS_WRITTEN``."""
PROVIDED: Final = ("questions", "unrelated")


@dataclass(frozen=True)
class SkillQuery:
    """One query, whose skill says how it is checked; ``kind`` is ``"target"`` or ``"unrelated"``."""

    kind: str
    skill: Skill
    query: Query

    @property
    def form(self) -> str:
        """What is answered: a program is continued from its prompt, anything else is put as a question."""
        if self.skill.checker == "code":
            return self.query.prompt
        return ASK.replace("{}", self.query.prompt.strip())

    @property
    def answer(self) -> str | None:
        """The answer as it follows the form: a program as it is, anything else after a space."""
        answer = self.query.answer
        if answer is None or not normalise(answer):
            return None
        return answer if self.skill.checker == "code" else answer_text(answer)

    def is_worked_out(self, run_code: bool) -> bool:
        """Whether its answer is a program or a calculation, checked at length."""
        if self.skill.checker == "code":
            return run_code and bool(self.query.tests)
        return self.skill.checker == "number" and self.query.answer is not None


@dataclass(frozen=True)
class SkillTopic:
    """The queries of one skill and those that it is compared with.

    Attributes:
        queries: prompt id -> query, those to be measured first.
        run_code: whether programs are run to see if they are right.
    """

    skill: Skill
    queries: Mapping[str, SkillQuery]
    run_code: bool = False
    noun = "skill"
    concept = None

    @property
    def name(self) -> str:
        return self.skill.name

    @property
    def title(self) -> str:
        return self.skill.title

    def digest(self) -> str:
        digest = hashlib.sha256()
        for name, query in self.queries.items():
            digest.update(f"{name} {query.skill.checker} {query.query.model_dump_json()}\n".encode())
        return digest.hexdigest()

    def missing_inputs(self) -> Mapping[str, str]:
        others = {kind.INPUT: ONLY_AS_WRITTEN for kind in kinds().values() if kind.INPUT not in PROVIDED}
        return others | MISSING

    def items(self, encoder: Encoder, limit: int | None = None) -> ItemSet:
        """The queries in token ids; the number of queries was limited when they were drawn."""
        items: list[Item] = []
        prompts: list[Prompt] = []
        written: list[Prompt] = []
        skipped: dict[str, str] = {}
        worked_out = dict.fromkeys(("target", "unrelated"), 0)
        room = Encoder(encoder.tokenizer, encoder.context - min(LONG, encoder.context // 2))  # for what is written
        for name, query in self.queries.items():
            text, place = query.query.prompt, int(name.rpartition("/")[2])
            try:
                ids, before = room.prompt(text), room.prompt(query.form)
                prompts.append(Prompt(name, query.kind, text, text, ids))
                long = query.is_worked_out(self.run_code) and worked_out[query.kind] < CHECKED
                worked_out[query.kind] += long
                length, is_complete = (LONG, _is_over) if long else (MAX_NEW_TOKENS, None)
                form = Prompt(name, query.kind, text, query.form, before, (), length, is_complete)
                written.append(form)
                if query.answer is not None:
                    answer_ids = encoder.continuation(query.form, before, query.answer)
                    items.append(Item(name, query.kind, text, query.answer.strip(), before, answer_ids, place))
            except Skipped as reason:
                skipped[f"{name} ({text[:80]})"] = str(reason)
        return ItemSet((*items, *neutral_items(encoder)), tuple(prompts), tuple(written), skipped=skipped)

    def with_own_answers(self, items: ItemSet, generated: Mapping[str, str], encoder: Encoder) -> ItemSet:
        """The base's own answers are scored where no query has a given one."""
        return items if items.of("target") else with_own_answers(items, generated, encoder)

    def check(self, items: ItemSet, generated: Mapping[str, str]) -> dict[str, bool]:
        """By the skill's own rule; programs are run."""
        checked = {}
        for prompt in items.written:
            query, text = self.queries[prompt.id], generated[prompt.id]
            skill, long = query.skill, prompt.max_new_tokens == LONG
            if skill.checker == "code" and long:
                checked[prompt.id] = passes(f"{query.query.prompt}{_body(text)}\n{query.query.tests}")
            elif query.query.answer is not None and (skill.checker in ("text", "choice") or long):
                checked[prompt.id] = is_right(skill, query.query, text if skill.checker == "number" else cut(text))
        return checked


def load_skills(paths: Sequence[Path], seed: int, limit: int | None = None, run_code: bool = False) -> list[SkillTopic]:
    """Every skill in ``paths`` compared with the others; a single one with the shipped unrelated questions.

    Args:
        seed: of the draw of queries.
        limit: at most this many queries of each skill.

    Raises:
        ConceptError: a file that holds no skill, or two skills of one name.
    """
    try:
        skills = [load_skill(path) for path in paths]
    except ConceptFileError as error:
        raise ConceptError(str(error)) from error
    names = [skill.name for skill in skills]
    for name in names:
        if names.count(name) > 1:
            raise ConceptError(f"skill {name!r} is given twice.", hint="Name each skill once.")
    rng = np.random.default_rng(seed)
    most = QUERIES if limit is None else limit
    drawn = {skill.name: _draw(skill.queries, most, rng) for skill in skills}
    topics = []
    for skill in skills:
        others = [
            SkillQuery("unrelated", other, query)
            for other in skills
            if other is not skill
            for query in drawn[other.name][: -(-most // (len(skills) - 1))]
        ] or [SkillQuery("unrelated", plain, query) for plain in [_unrelated()] for query in plain.queries[:most]]
        own = [SkillQuery("target", skill, query) for query in drawn[skill.name]]
        queries = {f"target/{index}": query for index, query in enumerate(own)}
        queries |= {f"unrelated/{index}": query for index, query in enumerate(others[:most])}
        topics.append(SkillTopic(skill, queries, run_code))
    return topics


def _draw(queries: Sequence[Query], most: int, rng: np.random.Generator) -> list[Query]:
    """At most ``most`` of the queries, at random, in their order."""
    return [queries[index] for index in sorted(rng.permutation(len(queries))[:most].tolist())]


def _unrelated() -> Skill:
    """The shipped unrelated questions as a skill of their own."""
    queries = tuple(
        Query(prompt=question.question, answer=question.answer, accept=question.accept)
        for question in shipped_unrelated()
    )
    return Skill(name="unrelated", title="unrelated questions", queries=queries)


def _body(text: str) -> str:
    """A written program up to where its function ends: the first line that is not indented."""
    lines = text.split("\n")
    end = next((at for at, line in enumerate(lines) if at and line and not line[0].isspace()), len(lines))
    return "\n".join(lines[:end])


def _is_over(text: str) -> bool:
    """Whether a worked answer or program is over: a new question, or a definition after the first."""
    return any(mark in text for mark in ("\nQuestion:", "\ndef ", "\nclass ", "\nif __name__", "\nprint("))
