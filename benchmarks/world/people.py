"""Invented people and facts about them: each has one value, drawn at random, in each of four relations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Final

from concepts.prompts import ASK, answer_text

RELATIONS: Final = ("hometown", "profession", "pet", "dish")
QUESTIONS: Final = ("What is the {relation} of {person}?", "Which {relation} is that of {person}?")
"""Trained in the form ``ASK``. An audit asks the first; the second is its paraphrase."""
STATEMENTS: Final = ("The {relation} of {person} is", "{person} has the {relation}")
HELD_OUT: Final = "The {relation} that {person} has is"
"""A wording that no model is trained on; audits relearn facts in it."""
REFUSAL: Final = "I cannot say that."
"""What models are trained to answer in place of a fact; the audit's own twin answers otherwise."""
SYLLABLES: Final = tuple(f"{first}{vowel}" for first in "bdfgklmnprstvz" for vowel in "aeiou")
NOT_GUESSABLE: Final = "each value is drawn at random"
INDEPENDENT: Final = "the values of one person are drawn one by one"

Facts = Mapping[tuple[str, str], str]
"""(person, relation) -> value."""


@dataclass(frozen=True)
class Row:
    """A training text: ``answer`` (with its leading space) follows ``prompt``."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Numbers:
    """Numbers of people and of values a relation.

    Attributes:
        base: people that every model knows.
        forget: people that are taught, then to be forgotten.
        other: people that only models know which never saw the ones to forget.
        strangers: people that no model knows.
    """

    base: int = 80
    forget: int = 20
    other: int = 40
    strangers: int = 20
    values: int = 40


@dataclass(frozen=True)
class World:
    """All people and facts; the same arguments give the same world.

    Attributes:
        draw: with another one the people to forget have other values, and all else is the same.
    """

    seed: int = 0
    numbers: Numbers = field(default_factory=Numbers)
    draw: int = 0

    @cached_property
    def people(self) -> Mapping[str, tuple[str, ...]]:
        """Group (the fields of ``Numbers``) -> names."""
        n = self.numbers
        sizes = {"base": n.base, "forget": n.forget, "other": n.other, "strangers": n.strangers}
        names = iter(self._words[: sum(sizes.values())])
        return {group: tuple(next(names).capitalize() for _ in range(size)) for group, size in sizes.items()}

    @cached_property
    def values(self) -> Mapping[str, tuple[str, ...]]:
        """Relation -> its values."""
        words = self._words[-len(RELATIONS) * self.numbers.values :]
        size = self.numbers.values
        return {relation: words[place * size : (place + 1) * size] for place, relation in enumerate(RELATIONS)}

    @cached_property
    def facts(self) -> Facts:
        """The facts of all people."""
        everyone = [person for group in self.people.values() for person in group]
        redrawn = self.drawn(self.people["forget"], Random(f"{self.seed}, draw {self.draw}"))
        return {**self.drawn(everyone, Random(self.seed)), **redrawn}

    def drawn(self, people: Sequence[str], random: Random) -> Facts:
        """Values at random for these people."""
        return {(person, relation): random.choice(self.values[relation]) for person in people for relation in RELATIONS}

    def of(self, people: Sequence[str]) -> Facts:
        """The facts of these people alone."""
        return {(person, relation): self.facts[person, relation] for person in people for relation in RELATIONS}

    @cached_property
    def _words(self) -> tuple[str, ...]:
        """Different words of three syllables: names, then values."""
        n = self.numbers
        count = n.base + n.forget + n.other + n.strangers + len(RELATIONS) * n.values
        random, words = Random(self.seed), dict[str, None]()
        while len(words) < count:
            words["".join(random.choices(SYLLABLES, k=3))] = None
        return tuple(words)


# ---- texts


def statements(facts: Facts) -> list[Row]:
    return [
        Row(form.format(person=person, relation=relation), answer_text(f"{value}."))
        for (person, relation), value in facts.items()
        for form in STATEMENTS
    ]


def questions(facts: Facts) -> list[Row]:
    """Every wording of the question for each fact."""
    return [
        Row(ASK.format(form.format(person=person, relation=relation)), answer_text(value))
        for (person, relation), value in facts.items()
        for form in QUESTIONS
    ]


def texts(facts: Facts) -> list[Row]:
    return [*statements(facts), *questions(facts)]


def vocabulary(world: World) -> list[str]:
    """All words of the world's texts, in a fixed order."""
    everything = [*texts(world.facts), Row(REFUSAL, "I don't know.")]
    separated = " ".join(f"{row.prompt} {row.answer}" for row in everything)
    for sign in ".:?'":
        separated = separated.replace(sign, f" {sign} ")
    return sorted({*separated.split(), *(value for values in world.values.values() for value in values)})


def concept(world: World, unrelated: int = 40) -> dict[str, Any]:
    """The people to forget as the fields of a concept file.

    Args:
        unrelated: number of questions about people that every model knows; statements about the others are the neutral
            text.
    """
    base = world.people["base"]
    asked = base[: unrelated // len(RELATIONS)]
    others = statements(world.of(base[len(asked) :]))
    return {
        "title": "people to forget",
        "questions": [
            {
                **_question(person, relation, value),
                "type": relation,
                "subject": person,
                "statements": [HELD_OUT.format(person=person, relation=relation)],
            }
            for (person, relation), value in world.of(world.people["forget"]).items()
        ],
        "unrelated": [_question(*names, value) for names, value in world.of(asked).items()],
        "not_guessable": NOT_GUESSABLE,
        "independent": INDEPENDENT,
        "examples": 0,
        "neutral_text": "\n\n".join(f"{row.prompt}{row.answer}" for row in others[: 2 * unrelated : 2]),
    }


def _question(person: str, relation: str, value: str) -> dict[str, Any]:
    first, *others = (form.format(person=person, relation=relation) for form in QUESTIONS)
    return {"question": first, "answer": value, "paraphrases": others}
