"""Training examples of a concept: no audited question, and nothing about the concept to retain."""

from __future__ import annotations

from audit.unlearning.training_examples import training_examples
from concepts.concept import Concept, load_concept
from concepts.prompts import few_shot, normalise


def test_no_example_has_the_wording_of_an_audited_question() -> None:
    concept = load_concept("italy")
    examples = training_examples(concept)
    kinds = (concept.questions, concept.unrelated, concept.two_hop, concept.open, concept.neighbours)
    assert all(kinds)
    audited = [question.question for questions in kinds for question in questions]
    audited += [group.ask(subject) for group in concept.groups for subject in group.answers]
    audited_prompts = {normalise(few_shot(question, concept.seeds)) for question in audited}
    prompts = [normalise(example.prompt) for example in (*examples.forget, *examples.retain)]
    assert audited_prompts.isdisjoint(prompts)
    assert len(examples.forget) > 30
    assert len(examples.retain) > 30


def test_what_mentions_the_concept_is_not_retained_and_audited_questions_are_not_trained() -> None:
    concept = Concept.model_validate(
        {
            "name": "peru",
            "title": "Peru",
            "seeds": ["Peru", "Lima"],
            "questions": [
                {"question": "Which city has the Rimac?", "answer": "Lima", "paraphrases": ["Where is Callao?"]}
            ],
            "unrelated": [{"question": "What is the capital of Turkey?", "answer": "Ankara"}],
        }
    )
    examples = training_examples(concept)
    assert [example.answer for example in examples.forget] == [" Lima"]
    retained = " ".join(example.prompt for example in examples.retain)
    assert "Peru" not in retained
    assert "Turkey" not in retained
    assert "Norway" in retained
