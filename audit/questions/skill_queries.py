"""A skill put to models as a concept is: its queries, and those of other skills (or unrelated questions) beside them.

What comes out is an ``ItemSet``, so that every metric that reads questions reads skills too. Key vectors are read at
the end of a query as it is written; where it is answered, it is put as a question, without examples before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from audit.errors import ConceptError
from audit.models.generation import MAX_NEW_TOKENS, greedy, is_over
from audit.models.loading import RunningModel
from audit.progress import SILENT, Progress
from audit.questions.items import Item, ItemSet, Prompt, QuestionKind, Unusable, encode, neutral_items
from audit.questions.sandbox import passes
from concepts.concept import Concept, shipped_unrelated
from concepts.files import ConceptFileError
from concepts.prompts import ASK, answer_text, cut, normalise
from concepts.skill import Query, Skill, is_right, load_skill

QUERIES: Final = 60
"""Queries of a skill, and as many of all others together."""
CHECKED: Final = 24
"""Of them, those whose worked answer or program is written out and checked."""
LONG: Final = 200
"""Tokens of such an answer."""
LACKING: Final = {
    "groups": "queries of a skill have no typed groups",
    "vectors": "a skill has no words by which its value vectors could be found",
    "jailbreaks": "queries of a skill are not asked under jailbreak prompts",
    "paraphrases": "queries of a skill are asked in their own words alone",
    "neighbours": "a skill has no neighbouring questions",
    "further": "a skill has no two-hop or open questions",
}


@dataclass(frozen=True)
class Asked:
    """One query, whose skill says how it is checked."""

    kind: QuestionKind
    skill: Skill
    query: Query


@dataclass(frozen=True)
class SkillQuestions:
    """The queries of one skill and those it is held against.

    Attributes:
        topic: the skill as findings name it.
        asked: prompt id -> what it asks, those to be measured first.
        run_code: whether programs are run to see if they are right.
    """

    topic: Concept
    asked: Mapping[str, Asked]
    run_code: bool = False

    def digest(self) -> str:
        """SHA-256 over everything that is asked."""
        found = hashlib.sha256()
        for name, asked in self.asked.items():
            found.update(f"{name} {asked.skill.checker} {asked.query.model_dump_json()}\n".encode())
        return found.hexdigest()

    def items(self, tokenizer: Any, context: int) -> ItemSet:
        """The queries as token ids; those that do not fit are left out with the reason."""
        items: list[Item] = []
        prompts: list[Prompt] = []
        refused: dict[str, str] = {}
        room = context - min(LONG, context // 2)  # for what the model writes
        for name, asked in self.asked.items():
            text = asked.query.prompt
            try:
                ids, before = encode(text, tokenizer, room), encode(_form(asked), tokenizer, room)
                prompts.append(Prompt(name, asked.kind, text, text, ids))
                if asked.query.answer is not None and normalise(asked.query.answer):
                    answer = _written(asked)
                    together = encode(_form(asked) + answer, tokenizer, context)
                    if together[: len(before)] != before or len(together) == len(before):
                        raise Unusable("the tokenizer merges the end of the prompt with the answer")
                    items.append(Item(name, asked.kind, text, answer.strip(), before, together[len(before) :]))
            except Unusable as reason:
                refused[f"{name} ({text[:80]})"] = str(reason)
        return ItemSet((*items, *neutral_items(tokenizer, context)), tuple(prompts), (), refused)

    def write(
        self, model: RunningModel, items: ItemSet, batch_size: int = 16, progress: Progress = SILENT
    ) -> dict[str, str]:
        """Prompt id -> the model's greedy answer: a line, and at length where it is worked out."""
        long = self.worked_out(items)
        short = [prompt for prompt in items.prompts if prompt not in long]
        found: dict[str, str] = {}
        for prompts, most, ended in ((short, MAX_NEW_TOKENS, is_over), (long, LONG, _over)):
            ids = [tuple(model.tokenizer(_form(self.asked[prompt.id]))["input_ids"]) for prompt in prompts]
            written = greedy(model, ids, most, batch_size, progress, ended=ended)
            found |= {
                prompt.id: model.tokenizer.decode(tokens, skip_special_tokens=True)
                for prompt, tokens in zip(prompts, written, strict=True)
            }
        return {prompt.id: found[prompt.id] for prompt in items.prompts}

    def right(self, items: ItemSet, written: Mapping[str, str]) -> dict[str, bool]:
        """Prompt id -> whether the answer is right, where that can be checked; programs are run."""
        long = {prompt.id for prompt in self.worked_out(items)}
        found = {}
        for prompt in items.prompts:
            skill, query = self.asked[prompt.id].skill, self.asked[prompt.id].query
            if skill.checker == "code" and prompt.id in long:
                found[prompt.id] = passes(f"{query.prompt}{_body(written[prompt.id])}\n{query.tests}")
            elif query.answer is not None and (skill.checker in ("text", "choice") or prompt.id in long):
                text = written[prompt.id]
                found[prompt.id] = is_right(skill, query, text if skill.checker == "number" else cut(text))
        return found

    def worked_out(self, items: ItemSet) -> list[Prompt]:
        """Those whose worked answer or program is written out and checked: the first of each kind."""
        chosen = []
        for kind in ("target", "unrelated"):
            of_kind = [prompt for prompt in items.prompts if prompt.kind == kind and self._is_long(prompt)]
            chosen += of_kind[:CHECKED]
        return chosen

    def longest_writing(self, items: ItemSet) -> int:
        """Tokens that worked answers take at most."""
        return LONG * len(self.worked_out(items))

    def _is_long(self, prompt: Prompt) -> bool:
        asked = self.asked[prompt.id]
        if asked.skill.checker == "code":
            return self.run_code and bool(asked.query.tests)
        return asked.skill.checker == "number" and asked.query.answer is not None


def skill_questions(
    paths: Sequence[Path], seed: int, limit: int | None = None, run_code: bool = False
) -> list[SkillQuestions]:
    """Every skill in ``paths`` against the others; a single one against the shipped unrelated questions.

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
    drawn = {skill.name: _drawn(skill.queries, most, rng) for skill in skills}
    found = []
    for skill in skills:
        others = [
            Asked("unrelated", other, query)
            for other in skills
            if other is not skill
            for query in drawn[other.name][: -(-most // (len(skills) - 1))]
        ] or [Asked("unrelated", plain, query) for plain in [_unrelated()] for query in plain.queries[:most]]
        own = {f"target/{index}": Asked("target", skill, query) for index, query in enumerate(drawn[skill.name])}
        beside = {f"unrelated/{index}": asked for index, asked in enumerate(others[:most])}
        topic = Concept(name=skill.name, title=skill.title, seeds=(skill.title,))
        found.append(SkillQuestions(topic, own | beside, run_code))
    return found


def _drawn(queries: Sequence[Query], most: int, rng: np.random.Generator) -> list[Query]:
    """At most ``most`` of them, at random, in their order."""
    return [queries[index] for index in sorted(rng.permutation(len(queries))[:most].tolist())]


def _unrelated() -> Skill:
    """The shipped unrelated questions as a skill of their own."""
    queries = tuple(
        Query(prompt=question.question, answer=question.answer, accept=question.accept)
        for question in shipped_unrelated()
    )
    return Skill(name="unrelated", title="unrelated questions", queries=queries)


def _form(asked: Asked) -> str:
    """What is answered: a program goes on from its prompt, anything else is put as a question."""
    return asked.query.prompt if asked.skill.checker == "code" else ASK.replace("{}", asked.query.prompt.strip())


def _written(asked: Asked) -> str:
    """The answer as it follows the prompt: a program as it is, anything else after a space."""
    assert asked.query.answer is not None
    return asked.query.answer if asked.skill.checker == "code" else answer_text(asked.query.answer)


def _body(text: str) -> str:
    """A written program up to where its function ends: the first line that is not indented."""
    lines = text.split("\n")
    end = next((at for at, line in enumerate(lines) if at and line and not line[0].isspace()), len(lines))
    return "\n".join(lines[:end])


def _over(text: str) -> bool:
    """Whether a worked answer or program is over: a new question, or a definition after the first."""
    return any(mark in text for mark in ("\nQuestion:", "\ndef ", "\nclass ", "\nif __name__", "\nprint("))
