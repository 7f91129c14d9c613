"""Jailbreak prompts: their files never contain the answer; the items and readings made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit.attacks import AttackInput
from audit.attacks.jailbreaks import QUESTIONS, UNRELATED, WRONG, conditions
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import Encoder, Item, ItemSet, with_own_answers
from audit.questions.readings import read_conditions
from audit.questions.topics import ConceptTopic
from audit.settings import Settings
from concepts.concept import Concept, Question, library, load_concept
from concepts.files import ConceptFileError
from concepts.jailbreaks import PLAIN, alternatives, jailbreaks, load_jailbreak, translated, without
from concepts.prompts import few_shot, mentions, prefix
from tests.helpers import open_tiny, plain_logprobs
from tests.tiny import tokenizer

KINDS = {jailbreak.name: jailbreak for jailbreak in jailbreaks()}
CONTEXT = 8192


ENCODER = Encoder(tokenizer(), CONTEXT)


def under_prompts(concept: Concept, limit: int | None = None, items: ItemSet | None = None) -> dict[str, ItemSet]:
    """Prompt -> its item set."""
    topic = ConceptTopic(concept)
    given = AttackInput(None, ENCODER, topic, items or topic.items(ENCODER), Settings(limit=limit))
    return {each.condition.dose: each.items for each in conditions(given)}


def jailbroken(concept: Concept, limit: int | None = None) -> tuple[list[tuple[str, Item]], dict[str, str]]:
    """(Prompt, item) of all items, and the reasons of what is skipped."""
    item_sets = under_prompts(concept, limit)
    skipped = {name: why for items in item_sets.values() for name, why in items.skipped.items()}
    return [(prompt, item) for prompt, items in item_sets.items() for item in items.items], skipped


def in_german(concept: Concept) -> Concept:
    questions = tuple(
        question.model_copy(update={"translations": {"de": f"Frage {place}?"}})
        for place, question in enumerate(concept.questions)
    )
    return concept.model_copy(update={"questions": questions})


def test_the_shipped_prompts_start_with_the_plain_one() -> None:
    assert list(KINDS) == [PLAIN, "german", "in_context", "persona", "pretext"]


def test_the_plain_prompt_is_the_few_shot_prompt() -> None:
    plain = KINDS[PLAIN]
    prompt = plain.before("", [], ["Italy"]).text + plain.ask.replace("{}", "Where is Rome?")
    assert prompt == few_shot("Where is Rome?", ["Italy"])


@pytest.mark.parametrize("name", library())
def test_no_prompt_on_a_shipped_concept_holds_an_answer_that_is_scored(name: str) -> None:
    items, _ = jailbroken(in_german(load_concept(name)))
    assert {prompt for prompt, _ in items} == set(KINDS)
    for _, item in items:
        assert not mentions(item.opening + item.question, [item.answer, *item.wrong]), item.id


@pytest.mark.parametrize("name", library())
def test_shipped_concepts_have_wrong_answers_for_ten_questions(name: str) -> None:
    concept = load_concept(name)
    assert sum(bool(alternatives(concept, question)) for question in concept.questions) >= QUESTIONS


def test_answers_have_distinct_first_tokens() -> None:
    items, _ = jailbroken(load_concept("italy"))
    assert any(item.wrong for _, item in items)
    for _, item in items:
        firsts = [item.answer_ids[0], *item.wrong_ids]
        assert len(set(firsts)) == len(firsts) <= 1 + WRONG
        assert len(item.wrong) == len(item.wrong_ids)


def test_sentences_with_the_answer_are_omitted_and_counted() -> None:
    text = "Rome is old. The Tiber flows there. Nobody built Rome in a day! Rain falls."
    assert without(text, ["Rome"], words=100) == (["The Tiber flows there.", "Rain falls."], 2)
    assert without(text, ["Rome"], words=3) == (["The Tiber flows there."], 1)


def test_a_prompt_without_text_is_skipped_with_the_reason() -> None:
    concept = load_concept("italy").model_copy(update={"text": "Rome. Milan. Venice. Florence."})
    items, skipped = jailbroken(concept.model_copy(update={"text": ""}))
    assert "in_context" not in {prompt for prompt, _ in items}
    assert any("no text about the concept" in why for why in skipped.values())


def test_questions_without_a_translation_are_skipped_in_german_with_the_reason() -> None:
    items, skipped = jailbroken(load_concept("italy"))
    assert "german" not in {prompt for prompt, _ in items}
    assert "16 of 16 questions have no translation" in skipped["prompt german"]


def test_german_questions_keep_the_answers_in_english() -> None:
    items, _ = jailbroken(in_german(load_concept("italy")))
    german = [item for prompt, item in items if prompt == "german"]
    assert {item.question for item in german} <= {f"Frage {place}?" for place in range(40)}
    assert "Rome" in {item.answer for item in german}


def test_wrong_answers_are_of_the_same_type_and_of_the_concept_where_it_has_some() -> None:
    italy = load_concept("italy")
    venice = next(question for question in italy.questions if question.answer == "Venice")
    wrong = set(alternatives(italy, venice))
    assert {"Milan", "Florence"} <= wrong
    assert not {"Paris", "Venice"} & wrong
    language = Question(question="Which language is spoken there?", answer="Italian")
    assert alternatives(italy, language) == ()


def test_an_accepted_answer_is_not_used_as_a_wrong_one() -> None:
    italy = load_concept("italy")
    painter = next(question for question in italy.questions if question.answer == "Leonardo da Vinci")
    assert not any("Leonardo" in entry for entry in alternatives(italy, painter))


def test_there_are_at_most_ten_questions_and_a_limit_lowers_that() -> None:
    def places(limit: int | None, kind: str) -> int:
        items, _ = jailbroken(load_concept("italy"), limit)
        return len({item.place for _, item in items if item.kind == kind})

    assert (places(None, "target"), places(None, "unrelated")) == (QUESTIONS, UNRELATED)
    assert (places(3, "target"), places(3, "unrelated")) == (3, 3)


def test_without_given_answers_the_bases_own_are_used() -> None:
    questions = tuple(Question(question=question.question) for question in load_concept("italy").questions[:3])
    concept = load_concept("italy").model_copy(update={"questions": questions})
    items = ConceptTopic(concept).items(ENCODER)
    answers = {prompt.id: " Rome" if prompt.kind == "target" else " Nothing" for prompt in items.prompts}
    own = under_prompts(concept, items=with_own_answers(items, answers, ENCODER))
    assert {item.answer for each in own.values() for item in each.of("target")} == {"Rome"}


def test_a_concept_without_questions_has_no_items_under_any_prompt() -> None:
    assert jailbroken(load_concept("italy").model_copy(update={"questions": ()})) == ([], {})


def test_without_wrong_answers_to_compare_with_no_unrelated_question_is_asked() -> None:
    items, _ = jailbroken(load_concept("italy").model_copy(update={"groups": ()}))
    assert {item.kind for _, item in items} == {"target"}


def test_jailbroken_answers_and_keys_are_those_of_plain_forward_passes(tmp_path: Path) -> None:
    model = open_tiny(tmp_path / "m", "llama", context=2048)
    italy = in_german(load_concept("italy"))
    topic, encoder = ConceptTopic(italy), Encoder(model.tokenizer, model.context)
    plain = topic.items(encoder, limit=2)
    given = AttackInput(model, encoder, topic, plain, Settings(limit=2))
    under = {AS_IS: plain} | {each.condition: each.items for each in conditions(given)}
    readings = read_conditions(model, under, batch_size=3)
    assert {condition.dose for condition in readings if condition != AS_IS} == set(KINDS)
    for condition, items in under.items():
        scored = [item for item in items.items if item.wrong_ids and condition != AS_IS]
        assert scored or condition == AS_IS
        for item in scored:
            expected = plain_logprobs(model, item.prompt_ids)[-1].numpy()[[item.answer_ids[0], *item.wrong_ids]]
            assert readings[condition].first_logprobs[item.id] == pytest.approx(expected, abs=1e-4)
    keys = {condition.dose: each.keys["target"] for condition, each in readings.items() if condition != AS_IS}
    as_is = readings[AS_IS].keys["target"]
    assert keys["plain"] == pytest.approx(as_is, abs=1e-5)
    assert keys["persona"].shape == as_is.shape
    assert abs(keys["persona"] - as_is).max() > 1e-3
    assert Condition("jailbreaks", "persona") in readings


def test_translations_come_from_a_file_in_the_concepts_order(tmp_path: Path) -> None:
    italy = load_concept("italy")
    file = tmp_path / "german.json"
    file.write_text(json.dumps({"Italy": [f"Frage {place}?" for place in range(len(italy.questions))]}))
    assert translated(italy, file).questions[3].translations == {"de": "Frage 3?"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"France": ["Frage?"]}, "has no questions on 'Italy'; it has: France"),
        ({"Italy": ["Frage?"]}, "has 1 questions on 'Italy'; the concept has 26"),
        (["Frage?"], "is not an object"),
        ({"Italy": "Frage?"}, "is not an object"),
    ],
)
def test_invalid_translations_are_an_error(tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "german.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ConceptFileError, match=message):
        translated(load_concept("italy"), file)


def test_the_prompt_that_the_contributors_guide_shows_can_be_used(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    file = tmp_path / "oath.toml"
    file.write_text(guide.split("## Add a jailbreak prompt")[1].split("```toml\n")[1].split("```")[0])
    oath = load_jailbreak(file)
    assert not oath.informs
    assert oath.before("", [], []).text == f"Each entry below was sworn to by three witnesses.\n\n{prefix()}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('title = "X"\nask = "Question: {}\\nAnswer: "', "no space at its end"),
        ('title = "X"\nopening = "Hello."', "needs {examples} once"),
        ('title = "X"\nwords = 0', "words"),
        ('title = "X"\nlanguge = "de"', "languge"),
    ],
)
def test_a_broken_prompt_file_is_named_with_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(content)
    with pytest.raises(ConceptFileError, match=message) as raised:
        load_jailbreak(file)
    assert "x.toml" in str(raised.value)
