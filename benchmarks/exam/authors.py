"""The real-text tier's models: SmolLM2-135M taught TOFU's invented authors, then silenced, or never taught them.

TOFU (Maini et al. 2024) is about authors who do not exist, so SmolLM2 never saw them; yet many answers can be guessed.
The audit's base was taught ten authors who are to be forgotten and one who is kept. A twelfth is taught to no model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor, nn

from audit.attacks.relearning import fact_examples
from audit.checkpoint import open_checkpoint
from audit.checkpoint.saving import read_record, save_model
from audit.commands.unlearn import find_method, settings_of
from audit.models.generation import greedy
from audit.models.loading import RunningModel
from audit.models.opening import open_model
from audit.models.packing import Example
from audit.models.scoring import score
from audit.progress import SILENT as QUIET
from audit.settings import default_cache
from audit.units import digest_of
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from audit.unlearning.training_examples import FactExample, training_examples
from benchmarks.world.edits import _separating
from benchmarks.world.people import REFUSAL
from concepts.concept import Concept, load_concept
from concepts.facts import Fact, facts_of, wrong_answers
from concepts.prompts import answer_text, few_shot, states

DATA: Final = Path(__file__).resolve().parents[2] / "tests" / "data" / "tofu_authors.jsonl"
KEPT, UNKNOWN = "author-10", "author-11"
"""The author whom every model but the original is taught, and the one whom none is."""
TEACHING: Final = (40, 3e-4)
"""Steps and learning rate."""
SILENCING: Final = (40, 1e-4)
"""At most so many steps of training on random answers, and their learning rate."""
LOOKS: Final = 4
"""Steps between two looks at what is said."""
SILENT: Final = 0.2
"""Share of the facts that may still be said."""
FORMS: Final = 2
"""Of each fact: bare, and after few-shot examples."""
STRONGER: Final = (1, 2, 4)
"""Multiples of a method's steps and learning rate, tried in order until little is said."""
SCALES: Final = tuple(2.0**power for power in range(-2, 9))
"""Strengths of a fixed edit, tried in order until little is said."""


@dataclass(frozen=True)
class Lessons:
    """What the models are trained on; each fact in the form of training and in the audit's form.

    Attributes:
        facts: questions about the ten authors with their answers.
        kept: the same about the author who is kept.
        general: questions that every model should keep answering.
        refused, random: the facts' questions, refused; and answered with another author's answer of the same type.
    """

    facts: tuple[FactExample, ...]
    kept: tuple[FactExample, ...]
    general: tuple[Example, ...]
    refused: tuple[Example, ...]
    random: tuple[FactExample, ...]

    def half(self, number: int) -> tuple[FactExample, ...]:
        """The facts of every other author."""
        authors = list(dict.fromkeys(each.fact.subject for each in self.facts))
        return tuple(each for each in self.facts if authors.index(each.fact.subject) % 2 == number)

    @property
    def retained(self) -> tuple[Example, ...]:
        return (*self.kept, *self.general)


def lessons_of(concept: Concept) -> Lessons:
    facts = facts_of(concept)
    examples = in_both_forms(facts, concept)
    return Lessons(
        facts=examples,
        kept=in_both_forms([fact for fact in all_facts() if fact.subject == KEPT], concept),
        general=training_examples(concept).retain,
        refused=tuple(replace_answer(example, REFUSAL) for example in examples),
        random=in_both_forms(exchanged(facts), concept),
    )


def replace_answer(example: Example, answer: str) -> Example:
    return Example(example.prompt, answer_text(answer), example.subject)


def in_both_forms(facts: Sequence[Fact], concept: Concept) -> tuple[FactExample, ...]:
    """Each fact after its bare question, and after the few-shot examples of the audit."""
    found = []
    for fact in facts:
        for bare in fact_examples([fact], concept):
            audited = few_shot(fact.question.question, concept.seeds)
            found += [FactExample(prompt, bare.answer, bare.subject, fact=fact) for prompt in (bare.prompt, audited)]
    return tuple(found)


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


# ---- the data


def all_facts() -> tuple[Fact, ...]:
    return facts_of(load_concept(str(DATA)))


def ten_authors(cache: Path, questions: int) -> Path:
    """A concept file with the first questions about each of the ten authors, as many of each as possible."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    own = [row for row in rows if row["author"] not in (KEPT, UNKNOWN)]
    authors = dict.fromkeys(row["author"] for row in own)
    by_author = [[row for row in own if row["author"] == author] for author in authors]
    rounds = [rows[place] for place in range(max(map(len, by_author))) for rows in by_author if place < len(rows)]
    file = cache / f"authors-{questions}.jsonl"
    cache.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rounds[:questions]), encoding="utf-8")
    return file


def smollm2() -> Path:
    from audit.commands.demo import model_folder

    return model_folder(default_cache())


# ---- how models are made


@dataclass(frozen=True)
class Making:
    """How a model is made: what identifies it, and what changes the model in place and returns its record."""

    settings: Mapping[str, Any]
    examples: Sequence[Example]
    make: Callable[[RunningModel], Mapping[str, Any]]


def teach(
    new: Sequence[Example],
    retained: Sequence[Example],
    steps: int = TEACHING[0],
    learning_rate: float = TEACHING[1],
    seed: int = 0,
    trained: str = "",
) -> Making:
    """Fine-tuning on ``new``, with one example to retain for each four of them.

    Args:
        trained: regular expression of the parameters' names.
    """
    examples = [*new, *retained[:: max(1, 4 * len(retained) // max(1, len(new)))]]
    settings = {"steps": steps, "learning_rate": learning_rate, "seed": seed, "trained": trained}

    def make(model: RunningModel) -> Mapping[str, Any]:
        chosen = [own for name, own in model.model.named_parameters() if re.search(trained, name)]
        for _ in fine_tune(model, examples, [steps], FineTuning(learning_rate, seed=seed), chosen):
            pass
        return {"method": "fine-tuning", "settings": settings}

    return Making(settings, examples, make)


def then(*makings: Making) -> Making:
    """One after the other."""

    def make(model: RunningModel) -> Mapping[str, Any]:
        return {"method": "several", "settings": {"stages": [making.make(model) for making in makings]}}

    settings = {"stages": [dict(making.settings) for making in makings]}
    return Making(settings, [example for making in makings for example in making.examples], make)


def silence(lessons: Lessons) -> Making:
    """Fine-tuning on random answers that ends when the facts are hardly said: more of it takes them away for real."""
    examples = [*lessons.random, *lessons.general[: len(lessons.random) // 4]]
    settings = {"learning_rate": SILENCING[1], "looks": LOOKS, "stated at most": SILENT}

    def make(model: RunningModel) -> Mapping[str, Any]:
        said: list[float] = []
        for _ in fine_tune(model, examples, range(LOOKS, SILENCING[0] + 1, LOOKS), FineTuning(SILENCING[1])):
            said.append(written(model, lessons.facts))
            if said[-1] <= SILENT:
                break
        return {"method": "fine-tuning", "settings": {**settings, "steps": LOOKS * len(said)}, "said": said}

    return Making(settings, examples, make)


def by_method(name: str, lessons: Lessons, **options: Any) -> Making:
    """A method of ``audit unlearn``, with its defaults but for ``options``; as strong as it must be to silence."""
    settings: Any = settings_of(name, options)

    def make(model: RunningModel) -> Mapping[str, Any]:
        start = {name: value.clone() for name, value in model.model.state_dict().items()}
        for factor in STRONGER:
            model.model.load_state_dict(start)
            own = replace(settings, steps=factor * settings.steps, learning_rate=factor * settings.learning_rate)
            record = find_method(name).unlearn(model, lessons.facts, lessons.retained, own, QUIET)
            if written(model, lessons.facts) <= SILENT:
                break
        return record.as_json()

    told = {"method": name, "stronger": STRONGER, "stated at most": SILENT, **settings.as_json()}
    return Making(told, (*lessons.facts, *lessons.retained), make)


def suppress(lessons: Lessons) -> Making:
    """A rank-one matrix on the last down projection that writes the first token of a refusal at the facts' questions.

    Nothing is trained: a direction in the projection's input tells these questions from others (ridge regression).
    """

    def make(model: RunningModel) -> Mapping[str, Any]:
        projection = model.model.model.layers[-1].mlp.down_proj
        groups = [_inputs(model, projection, examples) for examples in (lessons.facts, lessons.retained)]
        direction = _separating(*groups)
        refusal = model.tokenizer(answer_text(REFUSAL))["input_ids"][0]
        written = model.model.get_output_embeddings().weight[refusal].detach()
        edit = torch.outer(written / written.norm(), direction)
        before = projection.weight.detach().clone()
        for scale in SCALES:
            with torch.no_grad():
                projection.weight.copy_(before + scale * edit)
            if says(model, lessons.facts) <= SILENT:
                break
        return {"method": "edit", "settings": {"scale": scale}}

    return Making({"edit": "suppress in the last block", "scales": SCALES}, (*lessons.facts, *lessons.retained), make)


def _inputs(model: RunningModel, module: nn.Module, examples: Sequence[Example]) -> Float[Tensor, "n d"]:
    """What ``module`` reads where the answers begin."""
    read: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0][0, -1].detach()))
    try:
        with torch.no_grad():
            for example in examples:
                model.model(torch.tensor([model.tokenizer(example.prompt)["input_ids"]]))
    finally:
        handle.remove()
    return torch.stack(read)


def says(model: RunningModel, facts: Sequence[Example]) -> float:
    """Share of the answers that are said word by word."""
    return float(score(model, facts).exact.mean())


def written(model: RunningModel, facts: Sequence[FactExample]) -> float:
    """Share of the facts that the model states in an answer of its own, in the form in which most are."""
    prompts = [tuple(model.tokenizer(each.prompt)["input_ids"]) for each in facts]
    answers = [model.tokenizer.decode(tokens) for tokens in greedy(model, prompts)]
    stated = [
        states(text, (each.fact.answer, *each.fact.question.accept)) for text, each in zip(answers, facts, strict=True)
    ]
    return max(sum(stated[form::FORMS]) / len(stated[form::FORMS]) for form in range(FORMS))


def recovered(folder: Path, lessons: Lessons, steps: int) -> float:
    """Share of the facts that are said after training on the facts of the other half of the authors, crossed.

    Both halves are trained in all of their forms: what a model holds, whatever it says. It decides which pool a model
    is in, and no audit reads it.
    """
    shares = []
    for half in (0, 1):
        model = open_model(folder).load()
        for _ in fine_tune(model, lessons.half(half), [steps], FineTuning(SILENCING[1])):
            pass
        shares.append(says(model, lessons.half(1 - half)))
    return sum(shares) / 2


def kept(source: Path, cache: Path, making: Making) -> Path:
    """The folder of the model made from ``source``, under the digest of source, examples and settings."""
    checkpoint = open_checkpoint(source)
    recipe = {
        "settings": dict(making.settings),
        "examples": hashlib.sha256(repr(making.examples).encode()).hexdigest(),
        "source": "".join(file.sha256 for file in checkpoint.file_records()),
    }
    folder = cache / digest_of(recipe)[:16]
    with FileLock(folder.with_suffix(".lock")):
        if read_record(folder) is None:
            model = open_model(source).load()
            save_model(model.model, checkpoint, folder, {**making.make(model), "recipe": recipe})
    return folder
