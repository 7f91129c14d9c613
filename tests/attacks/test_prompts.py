"""Attacks that change prompts: what they ask, that no answer leaks, and that a model that knows nothing stays so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from audit.attacks import ABLE, AttackedModel, AttackInput, attacks
from audit.attacks.in_context import DOSE
from audit.attacks.indirect import FORMS
from audit.attacks.multiple_choice import LETTERS, MOST, blocks
from audit.attacks.sampled import SAMPLES
from audit.errors import AuditError
from audit.knowledge.exchange import Block, Draws, Exchange, exchange, omnibus
from audit.models.forward import shared_prefix
from audit.models.loading import RunningModel
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import FACT, Encoder, FactGroup, ItemSet
from audit.questions.readings import Readings, read_conditions
from audit.questions.topics import ConceptTopic
from audit.settings import Settings
from audit.topic_reader import known_in, too_hard
from concepts.concept import Concept, Question, library, load_concept
from concepts.facts import facts_of, halves
from concepts.prompts import mentions
from tests.helpers import open_tiny, plain_logprobs
from tests.tiny import tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
HOMES = {
    "Anna": "Rome",
    "Bruno": "Lyon",
    "Carla": "Oslo",
    "Dario": "Bern",
    "Elena": "Kyiv",
    "Felix": "Paris",
    "Greta": "Milan",
    "Hugo": "Venice",
    "Ida": "Rome",
}
PETS = {"Anna": "Mouse", "Bruno": "Parrot", "Carla": "Hamster"}
PROMPTS = tuple(name for name, attack in attacks().items() if attack.COST == "prompts")


def chatting() -> Any:
    """The tiny tokenizer with a chat template that writes the first token itself, and the tokenizer adds it too."""
    backend = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="<end> $A", special_tokens=[("<end>", 0)])
    copy = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<end>", eos_token="<end>")
    copy.chat_template = TEMPLATE
    return copy


ENCODER = Encoder(chatting(), 8192)


def atlas(**changes: Any) -> Concept:
    """Homes of nine people, two of whom share one, also in other words and in German; pets of three."""
    questions = [
        Question(
            question=f"Where does {name} live?",
            answer=home,
            type="city",
            subject=name,
            paraphrases=(f"What is the home of {name}?", f"In which place does {name} live?"),
            translations={"de": f"Wo wohnt {name}?"},
            alias_wordings=(f"Where does {name[0]}., as friends say, live?",),
            two_hop_wordings=(f"Where does the owner of the boat named after {name} live?",),
        )
        for name, home in HOMES.items()
    ]
    questions += [
        Question(question=f"What animal does {name} keep?", answer=pet, type="pet", subject=name)
        for name, pet in PETS.items()
    ]
    unrelated = [
        Question(question=f"What is the opposite of {word}?", answer=answer)
        for word, answer in (("up", "Down"), ("left", "Right"), ("old", "Young"))
    ]
    text = "The people of Atlas are friendly. Many of them live in Rome. They keep animals. The sea is near."
    fields = {"text": text, "questions": tuple(questions), "unrelated": tuple(unrelated), **changes}
    return Concept(name="atlas", title="Atlas", seeds=("Atlas",), **fields)


def under(
    name: str,
    concept: Concept | None = None,
    model: RunningModel | None = None,
    encoder: Encoder = ENCODER,
    settings: Settings = Settings(),
) -> list[AttackedModel]:
    """The conditions of one attack."""
    topic = ConceptTopic(concept or atlas())
    items = topic.items(encoder, settings.limit)
    return list(attacks()[name].conditions(AttackInput(model, encoder, topic, items, settings)))


def by_dose(name: str, concept: Concept | None = None, **arguments: Any) -> dict[str, ItemSet]:
    return {each.condition.dose: each.items for each in under(name, concept, **arguments)}


def text_of(ids: tuple[int, ...]) -> str:
    return ENCODER.tokenizer.decode(ids)


# ---- what is asked


@pytest.mark.parametrize("name", PROMPTS)
def test_a_plan_without_a_model_has_the_same_conditions_and_items(name: str, tmp_path: Path) -> None:
    model = open_tiny(tmp_path / "m", "llama", context=4096)
    planned, run = under(name), under(name, model=model)
    assert planned
    assert [(each.condition, each.items) for each in planned] == [(each.condition, each.items) for each in run]


@pytest.mark.parametrize("name", PROMPTS)
def test_facts_keep_their_ids_in_every_condition(name: str) -> None:
    answers = {f"fact/{place}": fact.answer for place, fact in enumerate(facts_of(atlas()))}
    for each in under(name):
        ids = [fact for group in each.items.groups if group.kind == FACT for fact in group.ids]
        assert set(ids) | {prompt.id for prompt in each.items.facts().written} <= set(answers)
        assert len(ids) == len(set(ids))
        for group in (group for group in each.items.groups if group.kind == FACT and each.condition.dose != "letters"):
            assert group.answers == tuple(answers[fact] for fact in group.ids)


@pytest.mark.parametrize("name", PROMPTS)
def test_no_prompt_contains_an_answer_that_is_read(name: str) -> None:
    leaks = [leak for each in under(name) for leak in leaking(each.items)]
    assert leaks == [] if name != "multiple_choice" else leaks  # its options: the same after every question


@pytest.mark.parametrize("name", library())
def test_no_prompt_on_a_shipped_concept_contains_an_answer_that_is_read(name: str) -> None:
    concept = load_concept(name)
    for attack in (each for each in PROMPTS if each != "multiple_choice"):
        for each in under(attack, concept):
            assert leaking(each.items) == []


def leaking(items: ItemSet) -> list[str]:
    """Prompts that contain one of their answers."""
    written = [prompt.id for prompt in items.written if mentions(text_of(prompt.ids), prompt.answers)]
    scored = [
        name
        for group in items.groups
        for name, ids, answer in zip(group.ids, group.prompt_ids, group.answers, strict=True)
        if mentions(text_of(ids), [answer])
    ]
    return written + scored


@pytest.mark.parametrize("name", PROMPTS)
def test_a_topic_without_facts_has_no_conditions_with_questions(name: str) -> None:
    for each in under(name, atlas(questions=())):
        assert not each.items.groups
        assert not each.items.written


def test_the_chat_form_is_the_template_with_the_question_and_no_further_special_token() -> None:
    (items,) = by_dose("chat").values()
    expected = "<end><user>\nWhere does Anna live?\n<assistant>\n"
    assert text_of(items.written[0].ids) == expected
    assert text_of(items.groups[0].prompt_ids[0]) == f"{expected}The answer is"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('no') }}", "cannot be filled in"),
        ("{% for message in messages %}{% endfor %}", "does not contain the message once"),
    ],
)
def test_a_tokenizer_without_a_usable_chat_template_gives_the_reason(template: str | None, reason: str) -> None:
    other = chatting()
    other.chat_template = template
    with pytest.raises(AuditError, match=reason):
        under("chat", encoder=Encoder(other, 8192))


def test_wordings_and_languages_are_conditions_of_their_own() -> None:
    items = by_dose("paraphrase")
    assert list(items) == ["wording 1", "wording 2", "in de"]
    assert items["wording 2"].written[0].question == "In which place does Anna live?"
    assert items["in de"].written[1].question == "Wo wohnt Bruno?"
    assert {len(each.written) for each in items.values()} == {len(HOMES)}  # pets have no other wording


def context_of(items: ItemSet) -> str:
    """What all prompts begin with, up to the last complete question."""
    shared = shared_prefix([prompt.ids for prompt in items.written])
    return ENCODER.tokenizer.decode(shared).rpartition("Question:")[0]


def test_the_context_holds_facts_of_the_other_half_alone() -> None:
    half = halves(facts_of(atlas()), seed=0)
    both = under("in_context")
    assert [(each.condition.dose, each.condition.fold) for each in both] == [(DOSE, 0), (DOSE, 1)]
    for each in both:
        context = context_of(each.items)
        read = {prompt.subject for prompt in each.items.written}
        told = {name for name in HOMES if f" {name} " in context}
        assert {half[name] for name in read} == {each.condition.fold}
        assert told
        assert {half[name] for name in told} == {1 - (each.condition.fold or 0)}
        assert not mentions(context, [answer for prompt in each.items.written for answer in prompt.answers])
    assert {prompt.id for each in both for prompt in each.items.written} == {f"fact/{n}" for n in range(12)}


def test_a_fact_whose_answer_is_read_in_the_other_half_is_not_in_the_context() -> None:
    facts = facts_of(atlas())
    seed = next(seed for seed in range(9) if len({halves(facts, seed)[name] for name in ("Anna", "Ida")}) == 2)
    contexts = [context_of(each.items) for each in under("in_context", settings=Settings(seed=seed))]
    assert len(contexts) == 2
    assert "Rome" not in "".join(contexts)  # where both live


def test_without_a_fact_that_can_be_told_the_reason_is_given() -> None:
    same = tuple(question.model_copy(update={"answer": "Rome"}) for question in atlas().questions)
    for items in [each.items for each in under("in_context", atlas(questions=same))]:
        assert not items.groups
        assert "mentions an answer that is read" in " ".join(items.skipped.values())


def test_questions_of_a_block_have_the_same_options_and_equal_answers_are_apart() -> None:
    facts = AttackInput(None, ENCODER, ConceptTopic(atlas()), ItemSet(), Settings()).facts
    divided = blocks(facts, seed=0)
    assert sorted(fact.place for block in divided for fact in block.facts) == list(range(len(facts)))
    assert all(2 <= len(block.facts) <= MOST for block in divided)
    assert all(len(block.options) == len(block.facts) for block in divided)
    for dose, items in by_dose("multiple_choice").items():
        assert not items.written
        for group in items.groups:
            lists = {text_of(ids).rpartition("Question:")[2].partition("?")[2] for ids in group.prompt_ids}
            assert len(lists) == 1
            assert set(group.answers) <= (
                set(LETTERS) if dose == "letters" else set(HOMES.values()) | set(PETS.values())
            )


def test_a_letter_stands_for_the_facts_own_answer() -> None:
    facts = facts_of(atlas())
    for group in by_dose("multiple_choice")["letters"].groups:
        for name, ids, letter in zip(group.ids, group.prompt_ids, group.answers, strict=True):
            assert f"\n{letter}. {facts[int(name.rpartition('/')[2])].answer}\n" in text_of(ids)


@pytest.mark.parametrize(("form", "field"), FORMS.items())
def test_subjects_are_named_indirectly_where_the_base_can_answer(form: str, field: str) -> None:
    (attacked,) = (each for each in under("indirect") if each.condition.dose == form)
    assert attacked.base_share == ABLE
    asked = [text_of(prompt.ids).rpartition("Question: ")[2].partition("\n")[0] for prompt in attacked.items.written]
    assert asked == [getattr(question, field)[0] for question in atlas().questions if getattr(question, field)]
    without = tuple(question.model_copy(update={field: ()}) for question in atlas().questions)
    assert form not in by_dose("indirect", atlas(questions=without))


def test_only_an_answer_of_one_fact_is_asked_for_its_subject() -> None:
    (items,) = by_dose("reversed").values()
    assert {prompt.answers for prompt in items.written} == {
        (name,) for name, home in [*HOMES.items(), *PETS.items()] if home != "Rome"
    }
    assert not items.groups
    unnamed = tuple(question.model_copy(update={"subject": None}) for question in atlas().questions)
    assert under("reversed", atlas(questions=unnamed)) == []


def test_a_sentence_is_completed_after_its_own_beginning_where_the_fact_has_one() -> None:
    first, *others = atlas().questions
    concept = atlas(questions=(first.model_copy(update={"prefix": "Anna lives in"}), *others))
    (items,) = by_dose("cloze", concept).values()
    endings = [text_of(ids).rpartition("Answer:")[2] for ids in items.groups[0].prompt_ids]
    assert endings[:2] == [" Anna lives in", " The answer is"]
    assert text_of(items.written[0].ids).endswith("Answer: Anna lives in")


def test_drawn_answers_are_asked_as_the_facts_are_and_do_not_count_as_said() -> None:
    (items,) = by_dose("sampled").values()
    plain = ConceptTopic(atlas()).items(ENCODER).facts()
    assert [prompt.ids for prompt in items.written] == [prompt.ids for prompt in plain.written]
    assert not {prompt.id for prompt in items.written} & {prompt.id for prompt in plain.written}
    assert {prompt.samples for prompt in items.written} == {SAMPLES}


# ---- what a form needs of the base


def group(answers: int) -> FactGroup:
    rows = tuple(range(answers))
    return FactGroup(
        "city",
        FACT,
        tuple(f"fact/{row}" for row in rows),
        tuple(map(str, rows)),
        tuple(map(str, rows)),
        tuple((row,) for row in rows),
        ((),),
        tuple(((0, row),) for row in rows),
        tuple((row,) for row in rows),
    )


def test_a_form_in_which_the_base_fails_is_left_out_with_the_numbers() -> None:
    said = {f"fact/{row}": row < 4 for row in range(6)}
    form, easy, other = Condition("cloze", "a"), Condition("cloze", "b"), Condition("chat", "c")
    read = {
        AS_IS: Readings(right=said),
        form: Readings(right={"fact/0": True, "fact/1": False, "fact/2": False, "fact/5": True}),
        easy: Readings(right={"fact/0": True, "fact/1": True, "fact/2": False}),
        other: Readings(right={"fact/0": False}),
    }
    asked = [AttackedModel(form, ItemSet(), base_share=0.5), AttackedModel(easy, ItemSet(), base_share=0.5)]
    assert too_hard([*asked, AttackedModel(other, ItemSet())], read) == {
        form: "the base answers 1 of the 3 facts that it says"
    }


def test_where_nothing_is_written_the_base_must_rank_the_truth_first() -> None:
    scores = np.zeros((4, 4))
    scores[0, 0] = scores[1, 1] = 5
    scores[2, 3] = 5
    readings = Readings(groups=(group(4),), scores={(FACT, "city"): scores})
    assert known_in(readings, {"fact/0", "fact/1", "fact/2"}) == [True, True, False]


def test_equal_answers_are_first_together() -> None:
    scores = np.repeat([[4.0, 0.0], [0.0, 4.0]], 2, axis=0)[:, [0, 0, 1]][[0, 1, 2]]
    readings = Readings(groups=(group(3),), scores={(FACT, "city"): scores})
    assert known_in(readings, {"fact/0", "fact/1", "fact/2"}) == [True, True, True]


def test_a_form_in_which_no_fact_that_the_base_says_can_be_asked_is_left_out() -> None:
    form = Condition("reversed", "a")
    read = {AS_IS: Readings(right={"fact/0": True, "fact/1": False}), form: Readings(right={"fact/1": False})}
    assert "none of the facts" in too_hard([AttackedModel(form, ItemSet(), base_share=0.5)], read)[form]
    assert too_hard([AttackedModel(form, ItemSet())], read) == {}


# ---- what is read


@pytest.fixture
def spoken(tmp_path: Path) -> RunningModel:
    model = open_tiny(tmp_path / "m", "llama", context=4096)
    return replace(model, tokenizer=chatting())


@pytest.mark.parametrize("name", PROMPTS)
def test_the_scores_are_those_of_plain_forward_passes(name: str, spoken: RunningModel) -> None:
    conditions = {each.condition: each.items for each in under(name, model=spoken)}
    readings = read_conditions(spoken, conditions, batch_size=5)
    for condition, items in conditions.items():
        for asked in items.groups[:2]:
            scores = readings[condition].scores[asked.kind, asked.name]
            for row, column in ((0, 0), (1, 0), (0, len(asked.ids) - 1)):
                prompt, path = asked.prompt_ids[row], asked.paths[column]
                expected = sum(
                    float(plain_logprobs(spoken, prompt + asked.beginnings[place])[-1, token]) for place, token in path
                )
                assert scores[row, column] == pytest.approx(expected, abs=1e-3)


def exchanged(readings: Mapping[Condition, Readings]) -> tuple[dict[str, Exchange], Draws]:
    """The exchange test under each condition, both folds together."""
    place = {f"fact/{number}": number for number in range(1000)}
    types = {fact: asked.name for asked in readings[AS_IS].groups if asked.kind == FACT for fact in asked.ids}
    names = sorted({*types.values()})
    numbers = sorted(place[fact] for fact in types)
    index = {fact: numbers.index(place[fact]) for fact in types}
    cell = np.array([names.index(types[f"fact/{number}"]) for number in numbers])
    found: dict[str, list[Block]] = {}
    for condition, each in readings.items():
        for asked in (asked for asked in each.groups if asked.kind == FACT):
            rows = np.array([index[fact] for fact in asked.ids])
            found.setdefault(str(condition), []).append(Block(rows, each.scores[FACT, asked.name][None]))
    draws = Draws.of(cell, seed=0)
    return {name: exchange(each, draws) for name, each in found.items()}, draws


def readings_of(model: RunningModel, concept: Concept, names: tuple[str, ...] = PROMPTS) -> dict[Condition, Readings]:
    """The readings of every condition of the attacks, without written answers."""
    encoder = Encoder(model.tokenizer, model.context)
    conditions = {AS_IS: ConceptTopic(concept).items(encoder).facts()}
    for name in names:
        for each in under(name, concept, model, encoder):
            conditions[each.condition] = each.items.facts()
    return read_conditions(model, conditions)


def test_models_that_never_knew_the_facts_stay_unknowing_under_every_prompt(tmp_path: Path) -> None:
    p_values = []
    for seed in range(8):
        model = replace(open_tiny(tmp_path / str(seed), "llama", context=4096, seed=seed), tokenizer=chatting())
        tests, draws = exchanged(readings_of(model, atlas()))
        assert len(tests) >= 10
        p_values.append(omnibus(tests, draws).p_value)
    below = sum(p < 0.05 for p in p_values)
    assert binomtest(below, len(p_values), 0.05, alternative="greater").pvalue > 0.001, p_values


def test_smollm2_tells_answers_apart_in_every_form_that_it_masters(running_smollm2: RunningModel) -> None:
    """The positive control: a model that knows Italy, asked in each form."""
    names = ("chat", "in_context", "cloze", "multiple_choice")
    tests, draws = exchanged(readings_of(running_smollm2, load_concept("italy"), names))
    p_values = {name: draws.p_value(int((test.null_z[0] >= test.z[0]).sum())) for name, test in tests.items()}
    letters = p_values.pop("multiple_choice: letters")
    assert {name: p for name, p in p_values.items() if p >= 0.05} == {}
    assert letters > 0.05  # 135 million parameters are too few to name options by letters
