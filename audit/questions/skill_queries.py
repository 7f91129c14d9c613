"""A skill as a topic: its queries, with queries of other skills or unrelated questions as the control.

Queries become an ``ItemSet``, so every metric that reads questions also works for skills. Key vectors are read at the
last token of a query as it is written; to be answered, a query is posed as a question without few-shot examples.
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
"""Number of queries of a skill; the control has as many in total."""
CHECKED: Final = 24
"""Number of queries of each kind whose worked answer or program is generated in full and checked."""
LONG: Final = 200
"""Maximum number of tokens of such an answer."""
ONLY_AS_WRITTEN: Final = "queries of a skill are asked only as they are written"
MISSING: Final = {
    "facts": "queries of a skill have no types of answer",
    "groups": "queries of a skill have no types of answer",
    "vectors": "a skill has no words to search its value vectors by",
    "jailbreaks": "queries of a skill are not asked under jailbreak prompts",
    "sampled": "one answer is written to each query of a skill",
    "neighbours": "a skill has no neighbouring questions",
    "further": "a skill has no two-hop or open questions",
}
"""Inputs of ``NEEDS`` that no skill provides; ``ONLY_AS_WRITTEN`` is the reason for all other kinds of question."""
PROVIDED: Final = ("questions", "unrelated")


@dataclass(frozen=True)
class SkillQuery:
    """One query, and the skill that defines how its answer is checked; ``kind`` is ``"target"`` or ``"unrelated"``."""

    kind: str
    skill: Skill
    query: Query

    @property
    def form(self) -> str:
        """The text that is answered: the prompt itself for a program, a question for any other query."""
        if self.skill.checker == "code":
            return self.query.prompt
        return ASK.replace("{}", self.query.prompt.strip())

    @property
    def answer(self) -> str | None:
        """The answer as a continuation of ``form``: a program unchanged, any other answer after a space."""
        answer = self.query.answer
        if answer is None or not normalise(answer):
            return None
        return answer if self.skill.checker == "code" else answer_text(answer)

    def is_worked_out(self, run_code: bool) -> bool:
        """Whether its answer is a program or a calculation, which is generated in full and checked."""
        if self.skill.checker == "code":
            return run_code and bool(self.query.tests)
        return self.skill.checker == "number" and self.query.answer is not None


@dataclass(frozen=True)
class SkillTopic:
    """The queries of one skill and those of its control.

    Attributes:
        queries: prompt id -> query, the skill's own first.
        run_code: whether generated programs are run with their tests.
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
        """The queries in token ids; ``limit`` has no effect, because ``load_skills`` already limits the queries."""
        items: list[Item] = []
        prompts: list[Prompt] = []
        written: list[Prompt] = []
        skipped: dict[str, str] = {}
        worked_out = dict.fromkeys(("target", "unrelated"), 0)
        room = Encoder(encoder.tokenizer, encoder.context - min(LONG, encoder.context // 2))  # for the generated answer
        for name, query in self.queries.items():
            text, place = query.query.prompt, int(name.rpartition("/")[2])
            try:
                ids, before = room.prompt(text), room.prompt(query.form)
                prompts.append(Prompt(name, query.kind, text, text, ids))
                long = query.is_worked_out(self.run_code) and worked_out[query.kind] < CHECKED
                worked_out[query.kind] += long
                length, is_complete = (LONG, _is_over) if long else (MAX_NEW_TOKENS, None)
                form = Prompt(
                    name, query.kind, text, query.form, before, max_new_tokens=length, is_complete=is_complete
                )
                written.append(form)
                if query.answer is not None:
                    answer_ids = encoder.continuation(query.form, before, query.answer)
                    items.append(Item(name, query.kind, text, query.answer.strip(), before, answer_ids, place))
            except Skipped as reason:
                skipped[f"{name} ({text[:80]})"] = str(reason)
        return ItemSet((*items, *neutral_items(encoder)), tuple(prompts), tuple(written), skipped=skipped)

    def with_own_answers(self, items: ItemSet, generated: Mapping[str, str], encoder: Encoder) -> ItemSet:
        """Adds the base's own answers only if no query of the skill has a given answer."""
        return items if items.of("target") else with_own_answers(items, generated, encoder)

    def check(self, items: ItemSet, generated: Mapping[str, str]) -> dict[str, bool]:
        """Prompt id -> whether the answer passes the skill's checker; programs are run with their tests."""
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
    """The skills in ``paths``, each with the others as its control; a single one with the shipped unrelated questions.

    Args:
        seed: seed of the random choice of queries.
        limit: maximum number of queries of each skill.

    Raises:
        ConceptError: a file without a skill, or two skills with the same name.
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
    """A random subset of at most ``most`` queries, in their original order."""
    return [queries[index] for index in sorted(rng.permutation(len(queries))[:most].tolist())]


def _unrelated() -> Skill:
    """The shipped unrelated questions as a skill."""
    queries = tuple(
        Query(prompt=question.question, answer=question.answer, accept=question.accept)
        for question in shipped_unrelated()
    )
    return Skill(name="unrelated", title="unrelated questions", queries=queries)


def _body(text: str) -> str:
    """A generated program up to the end of its function, the first line that is not indented."""
    lines = text.split("\n")
    end = next((at for at, line in enumerate(lines) if at and line and not line[0].isspace()), len(lines))
    return "\n".join(lines[:end])


def _is_over(text: str) -> bool:
    """Whether a worked answer or program is complete: a new question or another top-level statement follows."""
    return any(mark in text for mark in ("\nQuestion:", "\ndef ", "\nclass ", "\nif __name__", "\nprint("))
