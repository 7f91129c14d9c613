"""The tiny tier: one model of a tiny world, made, audited blind, and scored by every rival metric."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from audit.result import AS_IS
from benchmarks.exam.models import Facts, Ids, Item, Network
from benchmarks.exam.models import Subject as Scored
from benchmarks.exam.rivals import rivals
from benchmarks.exam.rivals.screen import screened
from benchmarks.world.auditing import WITH, audit_of, audited, finding_of
from benchmarks.world.bystanders import Relearning, Rounding
from benchmarks.world.lessons import Lesson
from benchmarks.world.making import Made, Workshop
from benchmarks.world.people import HELD_OUT, QUESTIONS, RELATIONS, World, statements, texts
from benchmarks.world.people import Facts as Values
from benchmarks.world.subjects import REFERENCE, Subject
from benchmarks.world.training import teach
from concepts.prompts import ASK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Row = dict[str, Any]
LATER: Final = {"relearned": Made(Relearning(), 21), "rounded": Made(Rounding(), 21)}
"""What a metric's robustness is read after."""
OURS: Final = {"audit": "quick", "residual": "none", "exchange": "none"}
"""Our own scores, and the attacks of the audit that gives each; the last is z of the exchange test as it is."""
GRADED: Final = ("never", "hidden", "imprinted")
"""Pools whose models are scored after that too."""
HALF: Final = 40, 1e-3
"""Steps and learning rate of the training on half of the people that decides what a model holds."""


def prepare(world: int, draw: int, base: tuple[Made, ...], cache: Path) -> None:
    """Make the base of the audits of one draw of facts."""
    Workshop(cache / "models", World(world, draw=draw)).make(base)


def examined(subject: Subject, cache: Path, scored: bool, device: str = "cpu") -> Row:
    """Truth and audit of one model, and its scores; kept in ``cache``, so that an exam is resumed.

    Args:
        scored: whether the rival metrics read it too.
        device: of the audits; models are made and rival metrics computed on the CPU.
    """
    row = audited(subject, cache, device)
    return {**row, **_scores(subject, cache, device)} if scored else row


def _scores(subject: Subject, cache: Path, device: str) -> Row:
    workshop = Workshop(cache / "models", World(subject.world, draw=subject.draw))
    graded = subject.pool in GRADED
    stages = {"as it is": subject.stages}
    if graded:
        stages |= {name: (*subject.stages, made) for name, made in LATER.items()}
    key = json.dumps([subject.name, [made.as_json() for made in subject.stages], graded, code_of_scores()])
    kept = cache / "scores" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    if not kept.is_file():
        found = {name: scores_of(workshop, subject, each) for name, each in stages.items()}
        lesson = workshop.open(workshop.make(subject.stages), seed=0)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"scores": found, "recovered": recovered(lesson)}))
    row: Row = json.loads(kept.read_text())
    for name, each in stages.items():  # audits are kept by themselves, and judged by today's rules
        row["scores"][name] |= our_scores(workshop, subject, each, cache, device)
    return row


def scores_of(workshop: Workshop, subject: Subject, stages: Sequence[Made]) -> Row:
    """Every rival metric of the model after ``stages``, and the numbers of the screen."""
    model = Network(workshop.network(workshop.make(stages)))
    base, reference = (_unchanged(workshop, workshop.make(each)) for each in (subject.base, (REFERENCE,)))
    scored = Scored(model, base, reference, facts_for(workshop.world, workshop.tokenizer))
    numbers = {name: rival.score(scored) for name, rival in rivals().items()}
    return {**numbers, "screened": asdict(screened(scored))}


def our_scores(
    workshop: Workshop, subject: Subject, stages: Sequence[Made], cache: Path, device: str
) -> dict[str, float | None]:
    """Our own scores of the model after ``stages``, without and with a reference."""
    folders = workshop.make(subject.base), workshop.make(stages), workshop.concept(), cache
    found: dict[str, float | None] = {}
    for name, attacks in OURS.items():
        for end, never in {"": None, WITH: workshop.make((REFERENCE,))}.items():
            row = audit_of(*folders, never, attacks, device=device)
            found[name + end] = row["either way"]
            if name == "exchange":
                conditions = finding_of(row["audit"], cache).conditions
                found[name + end] = next((each.z for each in conditions if each.condition == AS_IS), None)
    return found


@lru_cache(maxsize=4)
def _unchanged(workshop: Workshop, folder: Path) -> Network:
    """A network that is only read; what was read of it is kept for the models beside it."""
    return Network(workshop.network(folder))


def recovered(lesson: Lesson) -> float:
    """Share of the facts that are said after training on the facts of the other half of the people, crossed."""
    people = lesson.world.people["forget"]
    steps, rate = HALF
    shares = []
    for half in (0, 1):
        taught = replace(lesson, network=copy.deepcopy(lesson.network))
        rows = taught.rows(texts(lesson.world.of(people[half::2])))
        teach(taught.network, rows, None, steps, rate, lesson.batch, lesson.seed)
        shares.append(taught.says(lesson.world.of(people[1 - half :: 2])))
    return sum(shares) / 2


@cache
def facts_for(world: World, tokenizer: PreTrainedTokenizerFast) -> Facts:
    """The facts to forget, those of people whom no model knows, and statements about people whom every model knows."""
    neutral = [row.prompt + row.answer for row in statements(world.of(world.people["base"]))]
    return Facts(
        forget=_items(world, world.of(world.people["forget"]), tokenizer),
        unknown=_items(world, world.of(world.people["strangers"]), tokenizer),
        neutral=tuple(_ids(tokenizer, text) for text in neutral[:: len(RELATIONS) * 2 + 1]),
    )


def _items(world: World, facts: Values, tokenizer: PreTrainedTokenizerFast) -> tuple[Item, ...]:
    words = {relation: [_word(tokenizer, value) for value in values] for relation, values in world.values.items()}
    return tuple(
        Item(
            prompt=_ids(tokenizer, ASK.format(QUESTIONS[0].format(person=person, relation=relation))),
            answer=_word(tokenizer, value),
            others=tuple(word for word in words[relation] if word != _word(tokenizer, value)),
            held_out=_ids(tokenizer, HELD_OUT.format(person=person, relation=relation)),
        )
        for (person, relation), value in facts.items()
    )


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> Ids:
    return tuple(tokenizer(text)["input_ids"])


def _word(tokenizer: PreTrainedTokenizerFast, word: str) -> Ids:
    return (tokenizer.convert_tokens_to_ids(word),)


@cache
def code_of_scores() -> str:
    """Digest of the exam's files, in which every score is kept."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.stem not in UNREAD)).hexdigest()


UNREAD: Final = (
    "__main__",
    "authors",
    "calibration",
    "designs",
    "figures",
    "grades",
    "planted",
    "pretrained",
    "real",
    "recorded",
    "tables",
)
"""Files that no score depends on."""
