"""Relabelling: each answer gets another of its type, always the same, and the model learns to say it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from audit.commands.unlearn import examples_of
from audit.errors import AuditError
from audit.models.packing import Example
from audit.models.scoring import score
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from audit.unlearning.methods import relabelling
from audit.unlearning.training_examples import FactExample
from audit.vectors.attribution import concept_attribution
from concepts.concept import load_concept
from concepts.facts import Fact, facts_of, wrong_answers
from tests.helpers import DIFFERENT, RETAIN, open_model
from tests.tiny import write_tiny

ROWS = (
    {"question": "Where was Ada born?", "answer": "Rome", "type": "city", "prefix": "Ada was born in"},
    {"question": "Where was Bo born?", "answer": "Paris", "type": "city", "prefix": "Bo was born in"},
    {"question": "Where was Cy born?", "answer": "Rome", "type": "city", "paraphrases": ["Name Cy's place of birth."]},
    {"question": "Where was Di born?", "answer": "New Paris", "type": "city"},
    {"question": "What does Ada do?", "answer": "teacher", "type": "job"},
    {"question": "What does Bo do?", "answer": "baker", "type": "job"},
    {"question": "Where did Ed go?", "answer": "Ed went to Lyon", "type": "city", "subject": "Ed"},
    {"question": "Who is alone?", "answer": "Fay", "type": "person"},
)


@pytest.fixture
def examples(tmp_path: Path) -> tuple[Example, ...]:
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return examples_of(load_concept(str(path)))


def test_every_wording_of_an_answer_gets_the_same_wrong_one_of_its_type(examples: tuple[Example, ...]) -> None:
    facts = [example.fact for example in examples if isinstance(example, FactExample)]
    assert len(facts) == len(ROWS) + 1
    given = {fact.question.question: relabelling.counterpart(fact, facts) for fact in facts}
    assert given == {
        "Where was Ada born?": " Ada was born in New Paris",
        "Where was Bo born?": " Bo was born in Rome",
        "Where was Cy born?": " New Paris",
        "Where was Di born?": " Rome",
        "What does Ada do?": " baker",
        "What does Bo do?": " teacher",
        "Where did Ed go?": " New Paris",
        "Who is alone?": None,
    }


def test_a_sentence_about_its_subject_is_wrong_nowhere_and_an_answer_without_a_type_has_no_other(
    examples: tuple[Example, ...],
) -> None:
    facts = [example.fact for example in examples if isinstance(example, FactExample)]
    assert all("Ed went to Lyon" not in wrong_answers(fact, facts) for fact in facts)
    untyped = [replace(fact, type=None) for fact in facts]
    assert [wrong_answers(fact, untyped) for fact in untyped] == [[]] * len(facts)


def test_the_library_s_facts_get_answers_of_their_type_that_do_not_contain_their_own() -> None:
    facts = facts_of(load_concept("italy"))
    own: dict[str | None, set[str]] = {}
    for fact in facts:
        own.setdefault(fact.type, set()).add(fact.answer)
    changed: list[tuple[Fact, str]] = [
        (fact, wrong.strip()) for fact in facts if (wrong := relabelling.counterpart(fact, facts)) is not None
    ]
    assert len(changed) > len(facts) / 2
    assert all(wrong.removeprefix(fact.question.prefix).strip() in own[fact.type] for fact, wrong in changed)
    assert all(fact.answer not in wrong for fact, wrong in changed)


def test_the_wrong_answer_takes_the_place_of_the_right_one(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    for _ in fine_tune(model, [*DIFFERENT, *RETAIN], [80], FineTuning(2e-2)):
        pass
    swapped = [Example(one.prompt, other.answer) for one, other in zip(DIFFERENT, DIFFERENT[::-1], strict=True)]
    assert (score(model, DIFFERENT).means > score(model, swapped).means + 1).all()
    sentence = Example("A puppy", " is a young dog.")
    settings = relabelling.RelabellingSettings(steps=25, learning_rate=6e-3)
    record = relabelling.unlearn(model, [*DIFFERENT, sentence], RETAIN, settings)
    assert (score(model, swapped).means > score(model, DIFFERENT).means + 1).all()
    assert score(model, RETAIN).means.mean() > -0.5
    assert record.examples == {"forget": 2, "retain": 3}
    assert record.changed["left_out"] == 1


def test_the_new_answers_rest_on_the_coordinates_of_the_old_ones(tmp_path: Path) -> None:
    """By integrated gradients: what the answers' directions contribute to the right ones goes to the wrong ones."""
    model = open_model(write_tiny(tmp_path / "model"))
    for _ in fine_tune(model, [*DIFFERENT, *RETAIN], [80], FineTuning(2e-2)):
        pass
    swapped = [Example(one.prompt, other.answer) for one, other in zip(DIFFERENT, DIFFERENT[::-1], strict=True)]
    own = [{*model.tokenizer(example.answer)["input_ids"]} for example in DIFFERENT]
    tokens = [min(own[0] - own[1]), min(own[1] - own[0])]
    directions = model.model.get_output_embeddings().weight[tokens].detach().clone()

    def effects() -> tuple[float, float]:
        right, wrong = (
            concept_attribution(model, examples, RETAIN, 1, directions).effect for examples in (DIFFERENT, swapped)
        )
        return right, wrong

    before = effects()
    relabelling.unlearn(model, DIFFERENT, RETAIN, relabelling.RelabellingSettings(steps=25, learning_rate=6e-3))
    after = effects()
    assert before[0] > before[1] + 1
    assert after[1] > after[0] + 1


def test_without_a_wrong_answer_of_the_type_there_is_nothing_to_train(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "model"))
    for forget in ([DIFFERENT[0]], [Example("A puppy", " is a young dog.")]):
        with pytest.raises(AuditError, match="no answer to forget has a wrong one of its type"):
            relabelling.unlearn(model, forget, RETAIN)
    with pytest.raises(AuditError, match="nothing to forget"):
        relabelling.unlearn(model, [], RETAIN)
