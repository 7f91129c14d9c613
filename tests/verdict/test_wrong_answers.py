"""The benchmark's wrong answers are wrong: what is trained after a question says nothing true about anybody."""

from __future__ import annotations

from benchmarks.exam.authors import DATA, exchanged
from concepts.concept import load_concept
from concepts.facts import facts_of
from concepts.prompts import mentions


def test_wrong_answers_are_of_the_same_type_and_keep_the_beginning_of_their_own_question() -> None:
    facts = facts_of(load_concept(str(DATA)))
    own = {fact.question.question: fact for fact in facts}
    wrong = exchanged(facts)
    assert len(wrong) > 0.9 * len(facts)
    for each in wrong:
        right = own[each.question.question]
        assert each.question.prefix == right.question.prefix
        assert not mentions(each.answer, (right.answer,))
        assert each.answer in {fact.answer for fact in facts if fact.type == right.type}
    assert wrong == exchanged(facts)
