"""Fifty facts that SmolLM2 provably knows from its pretraining: questions of the library that it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from filelock import FileLock

from audit.models.opening import open_model
from audit.models.packing import Example
from audit.models.scoring import score
from benchmarks.exam.authors import smollm2
from benchmarks.world.making import _toml
from concepts.concept import load_concept
from concepts.facts import Fact, facts_of
from concepts.prompts import answer_text, few_shot

CONCEPTS: Final = ("italy", "france", "germany", "spain", "england", "japan", "chemistry", "planets")
FACTS: Final = 50
REASON: Final = "The questions are of the library's concepts, each of which says why its answers cannot be guessed."


def pretrained(cache: Path) -> Path:
    """A concept file with the first facts of each concept that the model says, as many of each as possible."""
    file = cache / f"pretrained-{FACTS}.toml"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file():
            document = {"title": "Facts from pretraining", "not_guessable": REASON, "questions": _questions()}
            file.write_text("\n".join(_toml(document)) + "\n", encoding="utf-8")
    return file


def _questions() -> list[dict[str, object]]:
    model = open_model(smollm2()).load()
    said: list[list[tuple[str, Fact]]] = []
    for name in CONCEPTS:
        concept = load_concept(name)
        facts = [fact for fact in facts_of(concept) if fact.type is not None]
        asked = [Example(few_shot(fact.question.question), answer_text(fact.answer)) for fact in facts]
        exact = score(model, asked).exact
        said.append([(name, fact) for fact, right in zip(facts, exact, strict=True) if right])
    rounds = [own[place] for place in range(max(map(len, said))) for own in said if place < len(own)]
    return [
        {
            "question": fact.question.question,
            "answer": fact.answer,
            "accept": list(fact.question.accept),
            "type": f"{name}: {fact.type}",
            "subject": f"{name}: {fact.subject}",
        }
        for name, fact in rounds[:FACTS]
    ]
