"""The concepts that ship: well formed, free of each other, and known to the demo's model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from audit.metrics.internals.association import associate
from audit.models.loading import RunningModel
from audit.questions.items import Encoder, ItemSet
from audit.questions.readings import generate, read
from audit.questions.topics import concept_items
from audit.vectors.question_split import answered
from concepts.concept import library, load_concept, neutral_text, shipped_unrelated
from concepts.files import read_toml
from concepts.prompts import cut, mentions

MODEL = "SmolLM2-135M-Instruct"


def test_at_least_25_concepts_ship() -> None:
    assert len(library()) >= 25


@pytest.mark.parametrize("name", library())
def test_a_shipped_concept_has_all_its_parts(name: str) -> None:
    concept = load_concept(name)
    assert concept.name == name
    assert concept.license == "CC0-1.0"
    assert 250 <= len(concept.text.split()) <= 400
    assert len(concept.questions) >= 12
    assert all(question.answer for question in concept.questions)
    with_paraphrases = [question for question in concept.questions if len(question.paraphrases) >= 2]
    assert len(with_paraphrases) > len(concept.questions) / 2
    assert len(concept.two_hop) >= 1
    assert len(concept.open) >= 1
    assert len(concept.neighbours) >= 5
    assert all(question.answer for question in [*concept.two_hop, *concept.neighbours])
    assert len(concept.groups) >= 2
    assert all(8 <= len(group.answers) <= 12 for group in concept.groups)
    assert not concept.few_questions
    assert len(concept.unrelated) >= 50


@pytest.mark.parametrize("name", library())
def test_no_groups_subject_spells_its_own_answer(name: str) -> None:
    """Nobody may guess an answer from the subject's name, as *Italian* from *Italy*."""
    for group in load_concept(name).groups:
        for subject, answer in group.answers.items():
            assert subject.casefold()[:4] != answer.casefold()[:4], (group.name, subject, answer)


@pytest.mark.parametrize("name", library())
def test_the_unrelated_questions_and_the_neutral_text_leave_the_concept_alone(name: str) -> None:
    concept = load_concept(name)
    words = [concept.title, *concept.seeds]
    assert not mentions(neutral_text(), words)
    assert not any(mentions(question.question, words) for question in concept.unrelated)
    answered_by_it = [
        question.question for question in concept.unrelated if mentions(" ".join(question.answers), words)
    ]
    assert answered_by_it == []


def test_the_neutral_text_is_long_enough_and_has_paragraphs() -> None:
    assert 500 <= len(neutral_text().split()) <= 800
    assert neutral_text().count("\n\n") >= 4


def test_the_unrelated_questions_are_many_and_different() -> None:
    questions = shipped_unrelated()
    assert len(questions) >= 60
    assert max(Counter(question.question for question in questions).values()) == 1


# ---- what SmolLM2 knows of them


@pytest.mark.parametrize("name", library())
def test_the_model_answers_as_many_questions_as_the_file_says(running_smollm2: RunningModel, name: str) -> None:
    concept = load_concept(name)
    known = answered(running_smollm2, concept.questions, [concept.title, *concept.seeds])
    assert len(known) == concept.answered_by[MODEL]
    assert len(known) >= max(10, 0.8 * len(concept.questions))


def test_the_model_answers_the_unrelated_questions(running_smollm2: RunningModel) -> None:
    questions = shipped_unrelated()
    concept = load_concept("italy").model_copy(update={"questions": questions, "unrelated": (), "groups": ()})
    texts, _ = generate(
        running_smollm2, concept_items(concept, Encoder(running_smollm2.tokenizer, running_smollm2.context))
    )
    right = sum(question.answered_in(cut(texts[f"target/{index}"])) for index, question in enumerate(questions))
    file = Path(__file__).parents[2] / "concepts" / "data" / "unrelated.toml"
    assert right >= 0.95 * read_toml(file)["answered_by"][MODEL]  # counted without a concept's words to avoid
    assert right >= 50


@pytest.mark.parametrize("name", library())
def test_the_model_prefers_the_true_answers_of_every_group(running_smollm2: RunningModel, name: str) -> None:
    concept = load_concept(name)
    items = concept_items(concept, Encoder(running_smollm2.tokenizer, running_smollm2.context))
    assert [entry for entry in items.skipped if entry.split("/")[0] in ("fact", "group")] == []
    readings = read(running_smollm2, ItemSet(groups=items.groups))
    scores = {key: values[None] for key, values in readings.scores.items()}
    controls = [values for (kind, _), values in scores.items() if kind == "group"]
    assert len(controls) == sum(len(group.answers) - len(group.about) > 1 for group in concept.groups)
    for values in controls:
        assert associate([values], 0).test.value[0] > 0
    assert associate(list(scores.values()), 0).reading(0) == "readable"
