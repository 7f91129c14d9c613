"""Relearning of the subjects' embeddings: what is trained is never read, nothing is left changed, and its null."""

from __future__ import annotations

from dataclasses import replace

import pytest

from audit.attacks import subject_rows, without_null
from audit.attacks.relearning import SMALL
from audit.attacks.subject_rows import STEPS, _halves
from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.questions.topics import ConceptTopic
from concepts.concept import Concept, Question
from concepts.facts import facts_of
from tests.attacks.known_facts import CONCEPT, PEOPLE, attacked, given, said, unchanged, z


def test_every_fact_is_read_once_and_never_trained_where_it_is_read() -> None:
    facts = facts_of(CONCEPT)
    halves = list(_halves(facts, CONCEPT))
    assert sorted(name for half in halves for name in half.read) == sorted(f"fact/{i}" for i in range(len(facts)))
    for half in halves:
        read = [facts[int(name.removeprefix("fact/"))] for name in half.read]
        assert {fact.type for fact in read} == {("home", "pet")[half.fold]}
        assert not {fact.answer for fact in read} & {example.answer.strip() for example in half.examples}
        assert {example.subject for example in half.examples} == set(PEOPLE)


def test_facts_about_subjects_of_whom_nothing_else_is_known_are_not_read() -> None:
    alone = Question(question="Home of Zoe?", answer="Quito", type="home", subject="Zoe")
    concept = CONCEPT.model_copy(update={"questions": (*CONCEPT.questions, alone)})
    place = len(CONCEPT.questions)
    assert not any(f"fact/{place}" in half.read for half in _halves(facts_of(concept), concept))


def test_the_model_is_as_before_and_the_sets_are_learned(knowing: RunningModel) -> None:
    with unchanged(knowing):
        found = list(subject_rows.conditions(given(knowing)))
    assert [(each.condition.fold, each.condition.steps) for each in found] == [(f, s) for f in (0, 1) for s in STEPS]
    for each in found[1::2]:
        assert each.trained_loss is not None


def test_what_a_model_knows_it_still_knows(knowing: RunningModel) -> None:
    assert z(attacked(subject_rows, given(knowing))[f"{subject_rows.ARM}, {STEPS[0]} steps"]) > 5


def test_a_model_that_never_knew_gains_nothing(ignorant: RunningModel) -> None:
    for read in attacked(subject_rows, given(ignorant)).values():
        assert abs(z(read)) < 3
        assert said(read) < 0.3


def test_the_exchange_test_reads_it_only_if_facts_do_not_tell_each_other() -> None:
    assert without_null() == {"embedding_rows", "subject_rows"}
    assert without_null(independent=True) == {"embedding_rows"}


def test_subjects_with_one_fact_each_are_refused(knowing: RunningModel) -> None:
    homes = Concept(name="homes", title="Homes", examples=0, questions=CONCEPT.questions[: len(PEOPLE)])
    plain = replace(given(knowing), topic=ConceptTopic(homes))
    with pytest.raises(AuditError, match="too few subjects"):
        list(subject_rows.conditions(plain))
    assert list(subject_rows.conditions(replace(plain, model=None))) == []


def test_a_quick_audit_of_a_larger_model_leaves_it_out(knowing: RunningModel) -> None:
    large = replace(given(knowing), parameters=SMALL, level="quick")
    with pytest.raises(AuditError, match="--attacks full"):
        list(subject_rows.conditions(large))
    assert list(subject_rows.conditions(replace(large, model=None))) == []
    assert list(subject_rows.conditions(replace(large, level="full", model=None)))


def test_a_plan_has_the_same_conditions(knowing: RunningModel) -> None:
    planned = list(subject_rows.conditions(replace(given(knowing), model=None)))
    run = list(subject_rows.conditions(given(knowing)))
    assert [(each.condition, each.items) for each in planned] == [(each.condition, each.items) for each in run]
    assert all(each.trained_tokens > 0 for each in planned)


def test_what_mentions_an_answer_that_is_read_is_not_trained() -> None:
    first, *others = CONCEPT.questions
    telling = first.model_copy(update={"paraphrases": (f"Home of {first.subject}, who has a {others[-12].answer}?",)})
    concept = CONCEPT.model_copy(update={"questions": (telling, *others)})
    for half in _halves(facts_of(concept), concept):
        assert not any("who has a" in example.prompt for example in half.examples)
        assert half.examples
