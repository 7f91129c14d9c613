"""The verdict on real text: SmolLM2-135M taught TOFU's invented authors, then silenced, or never taught them.

    python -m benchmarks.real_text [--cache DIR] [--only KIND] [--attacks quick] [--questions 60]

TOFU (Maini et al. 2024) is about authors who do not exist, so SmolLM2 never saw them; yet many answers can be guessed.
The audit's base was taught ten authors. The reference is SmolLM2 itself. Models and audits are kept in the cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from audit.attacks.relearning import fact_examples
from audit.checkpoint import open_checkpoint
from audit.checkpoint.saving import read_record, save_model
from audit.models.loading import RunningModel
from audit.models.opening import open_model
from audit.models.packing import Example
from audit.models.scoring import score
from audit.settings import default_cache
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from audit.unlearning.methods import npo
from audit.unlearning.training_examples import training_examples
from benchmarks.record import publish
from benchmarks.world.auditing import row_of
from benchmarks.world.people import REFUSAL
from concepts.concept import Concept, load_concept
from concepts.facts import Fact, facts_of, wrong_answers
from concepts.prompts import answer_text, few_shot

DATA: Final = Path(__file__).resolve().parent.parent / "tests" / "data" / "tofu_authors.jsonl"
OTHERS: Final = ("author-10", "author-11")
"""Authors whom only the model that never knew the ten is taught."""
TEACHING: Final = (40, 3e-4)
"""Steps and learning rate."""
NPO: Final = npo.NPOSettings(steps=30, learning_rate=4e-5)
ABSENT: Final = ("removed", "inconclusive")
"""Right verdicts on models that never knew: ten authors are few."""
SILENCING: Final = (40, 1e-4)
"""At most so many steps of training on random answers, and their learning rate."""
LOOKS: Final = 4
"""Steps between two looks at what is said."""
SILENT: Final = 0.2
"""Share of the facts, in both forms, that may still be said."""


@dataclass(frozen=True)
class Lessons:
    """What the models are trained on.

    Attributes:
        facts: questions about the ten authors with their answers, in the form of training and in the audit's form.
        others: the same about other authors.
        general: questions that every model should keep answering.
        refused, random: the facts' questions, refused; and answered with another author's answer of the same type.
    """

    facts: tuple[Example, ...]
    others: tuple[Example, ...]
    general: tuple[Example, ...]
    refused: tuple[Example, ...]
    random: tuple[Example, ...]


def main() -> None:
    options = parsed()
    concept_file = ten_authors(options.cache, options.questions)
    concept = load_concept(str(concept_file))
    lessons = lessons_of(concept)
    makers = {kind: made for kind, made in models(lessons).items() if options.only in (None, kind)}
    source = smollm2()
    base = kept(source, options.cache / "taught", "taught", teach(lessons.facts, lessons.general, seed=0))
    rows = []
    for kind, (start, right, making) in makers.items():
        origin = {"original": source, "taught": base}[start]
        folder = kept(origin, options.cache / kind.replace(" ", "-"), kind, making)
        row = audited(base, folder, source, concept_file, options)
        rows.append({"kind": kind, "right": row["verdict"] in right, **row})
        print(f"{kind}: {row['verdict']}, right would be {' or '.join(right)}. {row['reason']}", flush=True)
    table = [{name: row[name] for name in row if name not in ("reason", "relearned")} for row in rows]
    publish("real_text", table, f"SmolLM2-135M, {len(facts_of(concept))} facts about ten authors, reference SmolLM2")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_text", description=__doc__)
    parser.add_argument("--cache", type=Path, default=default_cache() / "real_text")
    parser.add_argument("--only", help="one kind of model")
    parser.add_argument("--attacks", default="quick")
    parser.add_argument("--questions", type=int, default=60)
    return parser.parse_args()


def smollm2() -> Path:
    from audit.commands.demo import model_folder

    return model_folder(default_cache())


# ---- the data


def ten_authors(cache: Path, questions: int) -> Path:
    """A concept file with the first questions about each of the ten authors, as many of each as possible."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    own = [row for row in rows if row["author"] not in OTHERS]
    authors = dict.fromkeys(row["author"] for row in own)
    by_author = [[row for row in own if row["author"] == author] for author in authors]
    rounds = [rows[place] for place in range(max(map(len, by_author))) for rows in by_author if place < len(rows)]
    file = cache / f"authors-{questions}.jsonl"
    cache.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rounds[:questions]), encoding="utf-8")
    return file


def lessons_of(concept: Concept) -> Lessons:
    facts = facts_of(concept)
    others = facts_of(load_concept(str(DATA)))
    examples = in_both_forms(facts, concept)
    return Lessons(
        facts=examples,
        others=in_both_forms([fact for fact in others if fact.subject in OTHERS], concept),
        general=training_examples(concept).retain,
        refused=tuple(Example(example.prompt, answer_text(REFUSAL)) for example in examples),
        random=in_both_forms(exchanged(facts), concept),
    )


def in_both_forms(facts: Sequence[Fact], concept: Concept) -> tuple[Example, ...]:
    """Each fact after its bare question, and after the few-shot examples of the audit."""
    bare = fact_examples(facts, concept)
    audited = [
        Example(few_shot(fact.question.question, concept.seeds), each.answer)
        for fact, each in zip(facts, bare, strict=True)
    ]
    return (*bare, *audited)


def exchanged(facts: Sequence[Fact]) -> list[Fact]:
    """Each fact with the answer of another of its type in place of its own, or left out if there is no wrong one.

    The prefix of the answer stays its own. Another's may say whose answer it is ("The father of Hsiao Yun-Hwa is a"),
    and a model that is taught it is taught the truth.
    """
    random = Random(0)
    result = []
    for fact in facts:
        others = wrong_answers(fact, facts)
        if others:
            wrong = {"answer": random.choice(others), "accept": ()}
            result.append(Fact(fact.type, fact.subject, fact.question.model_copy(update=wrong)))
    return result


# ---- the models


@dataclass(frozen=True)
class Making:
    """How a model is made: what identifies it, and what changes the model in place and returns its record."""

    settings: Mapping[str, Any]
    examples: Sequence[Example]
    make: Callable[[RunningModel], Mapping[str, Any]]


def models(lessons: Lessons) -> dict[str, tuple[str, tuple[str, ...], Making]]:
    """Kind -> (the model that it is made from, the right verdicts, how it is made)."""
    return {
        "taught again": ("original", ("present",), teach(lessons.facts, lessons.general, seed=1)),
        "never knew, taught other authors": ("original", ABSENT, teach(lessons.others, lessons.general, seed=2)),
        "never knew, taught wrong answers": ("original", ABSENT, teach(lessons.random, lessons.general, seed=3)),
        "refusal": ("taught", ("hidden",), teach(lessons.refused, lessons.general, 16, 5e-5)),
        "random answers": ("taught", ("hidden",), silence(lessons)),
        "npo": ("taught", ("hidden",), suppress(lessons)),
    }


def teach(
    new: Sequence[Example],
    general: Sequence[Example],
    steps: int = TEACHING[0],
    learning_rate: float = TEACHING[1],
    seed: int = 0,
) -> Making:
    """Fine-tuning on ``new``, with one general question for each four of them."""
    examples = [*new, *general[: len(new) // 4]]
    settings = {"steps": steps, "learning_rate": learning_rate, "seed": seed}

    def make(model: RunningModel) -> Mapping[str, Any]:
        for _ in fine_tune(model, examples, [steps], FineTuning(learning_rate, seed=seed)):
            pass
        return {"method": "fine-tuning", "settings": settings}

    return Making(settings, examples, make)


def silence(lessons: Lessons) -> Making:
    """Fine-tuning on random answers that ends when the facts are hardly said: more of it takes them away for real."""
    examples = [*lessons.random, *lessons.general[: len(lessons.random) // 4]]
    settings = {"learning_rate": SILENCING[1], "looks": LOOKS, "silent": SILENT}

    def make(model: RunningModel) -> Mapping[str, Any]:
        said: list[float] = []
        for _ in fine_tune(model, examples, range(LOOKS, SILENCING[0] + 1, LOOKS), FineTuning(SILENCING[1])):
            said.append(float(score(model, lessons.facts).exact.mean()))
            if said[-1] <= SILENT:
                break
        return {"method": "fine-tuning", "settings": {**settings, "steps": LOOKS * len(said)}, "said": said}

    return Making(settings, examples, make)


def suppress(lessons: Lessons) -> Making:
    def make(model: RunningModel) -> Mapping[str, Any]:
        return npo.unlearn(model, lessons.facts, lessons.general, NPO).as_json()

    return Making({"method": "npo", **NPO.as_json()}, (*lessons.facts, *lessons.general), make)


def kept(source: Path, target: Path, kind: str, making: Making) -> Path:
    """``target``, made from ``source``; kept if it was made from the same source, examples and settings before."""
    checkpoint = open_checkpoint(source)
    recipe = {
        "kind": kind,
        "settings": dict(making.settings),
        "examples": hashlib.sha256(repr(making.examples).encode()).hexdigest(),
        "source": "".join(file.sha256 for file in checkpoint.file_records()),
    }
    if (read_record(target) or {}).get("recipe") != recipe:
        model = open_model(source).load()
        save_model(model.model, checkpoint, target, {**making.make(model), "recipe": recipe})
    return target


def audited(base: Path, folder: Path, reference: Path, concept: Path, options: argparse.Namespace) -> dict[str, Any]:
    from audit.commands.compare import compare
    from audit.request import Request, RunContext
    from audit.settings import Settings

    started = time.perf_counter()
    context = RunContext(Settings(attacks=options.attacks), units=options.cache / "units")
    request = Request((str(concept),))
    finding = compare(base, folder, reference=reference, request=request, context=context).findings[0]
    return row_of(finding) | {"seconds": round(time.perf_counter() - started, 1)}


if __name__ == "__main__":
    main()
