"""Facts as a guard reads them: the questions of a concept are the queries of a skill."""

from __future__ import annotations

from audit.errors import AuditError
from audit.guards.splits import check_apart, check_enough_queries
from audit.unlearning.training_examples import general_questions
from concepts.concept import Concept
from concepts.facts import facts_of
from concepts.prompts import normalise
from concepts.skill import Query, Skill

GENERAL = "general knowledge"


def fact_skills(concept: Concept, retain: Concept | None = None) -> tuple[Skill, Skill]:
    """The facts to guard, and those to leave alone: by default general knowledge that does not mention the concept.

    Raises:
        AuditError: too few questions, or one that is in both.
    """
    kept = _general(concept) if retain is None else _skill(retain)
    skills = _skill(concept), kept
    check_apart(skills)
    for skill in skills:
        check_enough_queries(skill)
    return skills


def _skill(concept: Concept) -> Skill:
    """The concept's facts, each with its wordings in this and in other languages."""
    queries = [
        Query(
            prompt=fact.question.question,
            answer=fact.answer,
            accept=fact.question.accept,
            paraphrases=fact.question.paraphrases,
            translations=fact.question.translations,
        )
        for fact in facts_of(concept)
    ]
    if not queries:
        raise AuditError(
            f"{concept.title} has no question with an answer.",
            hint="A guard is fitted to questions; give a file of them.",
        )
    return Skill(name=concept.name, title=concept.title, queries=tuple(queries))


def _general(concept: Concept) -> Skill:
    asked = {normalise(wording) for fact in facts_of(concept) for wording in fact.question.wordings}
    questions = [
        (question, answer) for question, answer in general_questions(concept) if normalise(question) not in asked
    ]
    return Skill(
        name="general-knowledge",
        title=GENERAL,
        queries=tuple(Query(prompt=question, answer=answer) for question, answer in questions),
    )
