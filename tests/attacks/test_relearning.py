"""Relearning: what is trained is never what is read, the model comes back, and a plan counts the same conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace

import pytest
import torch

from audit.attacks import AttackedModel, AttackInput, Level, relearning
from audit.attacks.relearning import (
    FILLER,
    HALF,
    ONE,
    OTHERS,
    QUICK,
    SMALL_FULL,
    SMALL_QUICK,
    TEXT,
    conditions,
    fact_examples,
)
from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.questions.items import FACT, Encoder
from audit.questions.readings import Readings
from audit.questions.topics import ConceptTopic
from audit.settings import Settings
from audit.thresholds import LEAST_TAUGHT
from audit.unlearning.parts import ALL, Part, trained_part
from concepts.concept import Concept, library, load_concept
from concepts.facts import facts_of, halves
from concepts.prompts import ASK, answer_text, mentions
from tests.helpers import open_tiny, short_of_memory_on_the_cpu

CONCEPT = Concept.model_validate(
    {
        "name": "writers",
        "title": "Writers",
        "seeds": ["Quill"],
        "text": "Rain came to the Dogana that year. The old harbour was quiet for a long time. Short one.",
        "questions": [
            {
                "question": f"Where was writer {name} born?",
                "answer": town,
                "type": "town",
                "subject": name,
                "paraphrases": [f"Which town did {name} come from?"],
            }
            for name, town in zip(
                "ABCDEFGH", ["Rome", "Lyon", "Milan", "Dogana", "Paris", "Oslo", "Bonn", "Kyiv"], strict=True
            )
        ]
        + [
            {"question": f"What did {name} write?", "answer": f"Book {name}{name}", "type": "book", "subject": name}
            for name in "ABCD"
        ],
        "unrelated": [
            {"question": "What is a young dog called?", "answer": "A puppy"},
            {"question": "What does the pancreas make?", "answer": "Insulin"},
        ],
        "neutral_text": "Rivers run to the sea, slowly. Rain falls on the hills in winter.",
    }
)
FACTS = facts_of(CONCEPT)
HALVES = (HALF, f"{HALF}, low rank", f"{HALF}, embedding")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RunningModel:
    return open_tiny(tmp_path_factory.mktemp("model") / "m", "llama")


def given(
    model: RunningModel, level: Level = "quick", concept: Concept = CONCEPT, rate: float | None = 1e-2
) -> AttackInput:
    topic, encoder = ConceptTopic(concept), Encoder(model.tokenizer, model.context)
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    return AttackInput(model, encoder, topic, topic.items(encoder), Settings(), rate, parameters, level)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[Example]]:
    """The examples of each training run; nothing is trained."""
    runs: list[list[Example]] = []

    def record(model: RunningModel, examples: Sequence[Example], doses: Sequence[int], *rest: object) -> Iterator[int]:
        runs.append(list(examples))
        yield from doses

    monkeypatch.setattr(relearning, "fine_tune", record)
    return runs


def test_each_half_is_read_after_training_on_the_other(tiny: RunningModel, trained: list[list[Example]]) -> None:
    attacked = list(conditions(given(tiny)))
    half = halves(FACTS, 0)
    assert [each.condition.fold for each in attacked] == [0] * len(SMALL_QUICK) + [1] * len(SMALL_QUICK)
    assert len(trained) == 2
    for fold, examples in enumerate(trained):
        read = [each.items for each in attacked if each.condition.fold == fold]
        subjects = {prompt.subject for items in read for prompt in items.written}
        assert subjects == {subject for subject in half if half[subject] == fold}
        assert {name for items in read for group in items.groups for name in group.subjects} <= subjects
        questions = {example.prompt for example in examples}
        other = [fact for fact in FACTS if half[fact.subject] != fold]
        assert questions == {ASK.replace("{}", wording) for fact in other for wording in fact.question.wordings}


def test_statements_of_the_trained_half_are_trained_as_sentences(
    tiny: RunningModel, trained: list[list[Example]]
) -> None:
    stated = [
        question.model_copy(update={"statements": (f"It is known of number {place} that it is",)})
        for place, question in enumerate(CONCEPT.questions)
    ]
    concept = CONCEPT.model_copy(update={"questions": tuple(stated)})
    list(conditions(given(tiny, concept=concept)))
    half = halves(facts_of(concept), 0)
    for fold, examples in enumerate(trained):
        others = [fact for fact in facts_of(concept) if half[fact.subject] != fold]
        expected = {(each, f" {fact.answer}") for fact in others for each in fact.question.statements}
        sentences = [example for example in examples if example.prompt.startswith("It is known")]
        assert {(each.prompt, each.answer) for each in sentences} == expected


def test_together_the_halves_read_each_fact_once_under_its_own_id(
    tiny: RunningModel, trained: list[list[Example]]
) -> None:
    attacked = [each for each in conditions(given(tiny)) if each.condition.dose == f"{HALF}, {SMALL_QUICK[0]} steps"]
    names = [prompt.id for each in attacked for prompt in each.items.written]
    assert sorted(names) == sorted(f"fact/{place}" for place in range(len(FACTS)))
    for each in attacked:
        for prompt in each.items.written:
            assert prompt.kind == FACT
            assert prompt.question == FACTS[int(prompt.id.partition("/")[2])].question.question


def test_a_condition_names_its_arm_and_its_steps_as_its_dose_does(
    tiny: RunningModel, trained: list[list[Example]]
) -> None:
    for each in conditions(given(tiny, "full")):
        condition = each.condition
        assert condition.steps in SMALL_FULL
        assert condition.arm in (*HALVES, ONE, OTHERS, TEXT, FILLER)
        assert condition.dose == f"{condition.arm}, {condition.steps} steps"


@pytest.mark.parametrize("seed", range(5))
def test_no_trained_example_holds_the_answer_of_a_fact_that_is_read_beside_its_question(
    tiny: RunningModel, trained: list[list[Example]], seed: int
) -> None:
    attacked = list(conditions(replace(given(tiny, "full"), settings=Settings(seed=seed))))
    folds = [{prompt.id for prompt in each.items.written} for each in attacked[:: len(SMALL_FULL)]]
    assert len(folds) == len(trained) == 10
    for names, examples in zip(folds, trained, strict=True):
        for fact in (FACTS[int(name.partition("/")[2])] for name in names):
            for example in examples:
                assert not any(mentions(example.prompt, [wording]) for wording in fact.question.wordings)
                assert not mentions(example.answer, [fact.answer])


@pytest.mark.parametrize("name", library())
def test_no_library_concept_trains_a_question_that_it_reads(
    tiny: RunningModel, trained: list[list[Example]], name: str
) -> None:
    concept = load_concept(name)
    large = given(tiny, concept=concept)
    large = replace(large, items=ConceptTopic(concept).items(replace(large.encoder, context=10**6)))
    attacked = list(conditions(large))[:: len(SMALL_QUICK)]
    assert len(attacked) == len(trained) == 2
    for each, examples in zip(attacked, trained, strict=True):
        read = {prompt.question for prompt in each.items.written}
        assert read
        assert not {ASK.replace("{}", question) for question in read} & {example.prompt for example in examples}


def test_facts_of_one_subject_are_in_the_same_half(tiny: RunningModel, trained: list[list[Example]]) -> None:
    attacked = list(conditions(given(tiny)))
    for each in attacked:
        books = {prompt.subject for prompt in each.items.written if "write?" in prompt.question}
        towns = {prompt.subject for prompt in each.items.written if "born?" in prompt.question}
        assert books <= towns
        assert {len(group.ids) for group in each.items.groups} <= {2, 4}, "types are divided evenly"


def test_the_full_level_adds_other_arms_that_hold_no_fact(tiny: RunningModel, trained: list[list[Example]]) -> None:
    attacked = list(conditions(given(tiny, "full")))
    arms = list(dict.fromkeys((each.condition.dose.rpartition(", ")[0], each.condition.fold) for each in attacked))
    halves_ = [(name, fold) for name in HALVES for fold in (0, 1)]
    assert arms == [*halves_, (ONE, None), (OTHERS, None), (TEXT, None), (FILLER, None)]
    assert len(attacked) == len(arms) * len(SMALL_FULL)
    assert trained[:2] == trained[2:4] == trained[4:6]
    one, others, text, filler = trained[6:]
    assert {example.answer for example in one} == {answer_text(FACTS[0].answer)}
    assert [example.answer for example in others] == [" A puppy", " Insulin"]
    assert text == [Example("The old harbour", " was quiet for a long time.")]
    assert filler == [
        Example("Rivers run to", " the sea, slowly."),
        Example("Rain falls on", " the hills in winter."),
    ]
    other_subjects = sum(fact.subject != FACTS[0].subject for fact in FACTS)
    for each in attacked[6 * len(SMALL_FULL) : 7 * len(SMALL_FULL)]:
        assert len(each.items.written) == other_subjects
    for each in attacked[7 * len(SMALL_FULL) :]:
        assert len(each.items.written) == len(FACTS)


def test_the_model_is_trained_when_it_is_read_and_restored_bit_for_bit(tiny: RunningModel) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}

    def changed() -> bool:
        return any(not torch.equal(tensor, before[name]) for name, tensor in tiny.model.state_dict().items())

    for each in conditions(given(tiny)):
        assert each.model is tiny
        assert changed()
        if each.condition.dose.endswith(f" {SMALL_QUICK[-2]} steps"):
            break  # the reader may stop early
    del each
    assert not changed()
    list(conditions(given(tiny)))
    assert not changed()


def test_the_loss_of_what_is_trained_falls_where_the_set_teaches(tiny: RunningModel) -> None:
    falls = [fall(each) for each in conditions(given(tiny)) if each.condition.steps == SMALL_QUICK[-1]]
    assert len(falls) == 2
    assert min(falls) > LEAST_TAUGHT.value


def test_a_set_that_cannot_teach_is_told_from_a_model_that_forgot(tiny: RunningModel) -> None:
    few = replace(given(tiny, rate=1e-9), settings=Settings(relearning_steps=(2, 10)))
    falls = [fall(each) for each in conditions(few)]
    assert len(falls) == 4
    assert max(falls) < LEAST_TAUGHT.value


def fall(each: AttackedModel) -> float:
    assert each.trained_loss is not None
    before, after = each.trained_loss
    return 1 - after / before


def test_each_fold_starts_from_the_unmodified_model(tiny: RunningModel) -> None:
    def after_first_dose(order: int) -> torch.Tensor:
        attacked = (
            each for each in conditions(given(tiny)) if each.condition.dose == f"{HALF}, {SMALL_QUICK[0]} steps"
        )
        for _ in range(order):
            next(attacked)
        next(attacked)
        return torch.cat([parameter.detach().flatten().clone() for parameter in tiny.model.parameters()])

    start = torch.cat([parameter.detach().flatten().clone() for parameter in tiny.model.parameters()])
    distances = [float((after_first_dose(order) - start).norm()) for order in (0, 1)]
    assert distances[1] < 1.5 * distances[0], "the second fold would be farther if it started from the first"


@pytest.mark.parametrize("level", ["quick", "full"])
def test_a_plan_without_a_model_gives_the_same_conditions_items_and_doses(tiny: RunningModel, level: Level) -> None:
    running = given(tiny, level)
    planned = list(conditions(replace(running, model=None, learning_rate=None)))
    steps = [(each.condition, each.items) for each in planned if not each.optional]
    assert all(each.model is None for each in planned)
    assert all(each.trained_tokens > 0 for each in planned)
    short = replace(running, settings=running.settings)
    assert steps == [(each.condition, each.items) for each in conditions(short)]


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float | Sequence[float]]:
    """The loss at each dose of each training run, or one for all, in the order of the runs; nothing is trained."""
    runs: list[float | Sequence[float]] = []

    def train(
        model: RunningModel,
        examples: Sequence[Example],
        doses: Sequence[int],
        settings: object,
        parameters: object,
        recorded: list[float],
    ) -> Iterator[int]:
        run = runs.pop(0)
        for dose, loss in zip(doses, run if isinstance(run, Sequence) else [run] * len(doses), strict=True):
            recorded.append(loss)
            yield dose

    monkeypatch.setattr(relearning, "fine_tune", train)
    return runs


LONG = (*SMALL_QUICK, 2 * SMALL_QUICK[-1], 4 * SMALL_QUICK[-1])


@pytest.mark.parametrize(
    ("ends", "steps"),
    [((0.8, 0.6), LONG), ((0.6, 0.8), SMALL_QUICK), ((9.0, 9.0), LONG), ((0.1, 0.1), SMALL_QUICK)],
)
def test_training_goes_on_where_the_half_that_is_trained_first_was_not_learned(
    tiny: RunningModel, losses: list[float | Sequence[float]], ends: tuple[float, float], steps: tuple[int, ...]
) -> None:
    """Both halves are trained as long: each fact is read after the same steps."""
    losses += ends
    attacked = list(conditions(given(tiny)))
    assert [(each.condition.fold, each.condition.steps) for each in attacked] == [
        (fold, each) for fold in (0, 1) for each in steps
    ]
    assert [each.optional for each in attacked] == [each in LONG[-2:] for _ in (0, 1) for each in steps]


def test_training_ends_as_soon_as_the_half_is_learned(
    tiny: RunningModel, losses: list[float | Sequence[float]]
) -> None:
    learned_later = [*[9.0] * len(SMALL_QUICK), 0.6, 0.1]
    losses += [learned_later, learned_later]
    attacked = list(conditions(given(tiny)))
    assert [each.condition.steps for each in attacked] == [*LONG[:-1], *LONG[:-1]]
    done = {each.condition: Readings(trained_loss=each.trained_loss) for each in attacked}
    assert [each.condition for each in conditions(replace(given(tiny), done=done))] == [*done]
    assert not losses


def test_steps_that_were_asked_for_are_all(tiny: RunningModel, losses: list[float | Sequence[float]]) -> None:
    losses += [9.0, 9.0]
    asked = replace(given(tiny), settings=Settings(relearning_steps=(2, 8)))
    assert [each.condition.steps for each in conditions(asked)] == [2, 8, 2, 8]


def test_a_reference_is_trained_as_long_as_the_unlearned_model(
    tiny: RunningModel, losses: list[float | Sequence[float]]
) -> None:
    losses += [9.0] * 4 + [0.1] * 4
    long = [each.condition for each in conditions(given(tiny))]
    middle = [condition for condition in long if condition.steps != LONG[-1]]
    short = [condition for condition in middle if condition.steps != LONG[-2]]
    for follows in (short, middle, long):
        assert [each.condition for each in conditions(replace(given(tiny), follows=follows))] == follows


@pytest.mark.parametrize(("end", "steps"), [(0.8, LONG), (0.6, SMALL_QUICK)])
def test_what_was_trained_before_is_not_trained_again(
    tiny: RunningModel, losses: list[float | Sequence[float]], end: float, steps: tuple[int, ...]
) -> None:
    """Whether training goes on is read from what is kept, as in the run that kept it."""
    losses += [end, end]
    done = {each.condition: Readings(trained_loss=each.trained_loss) for each in conditions(given(tiny))}
    resumed = replace(given(tiny), done=done)
    assert not losses
    assert [each.condition.steps for each in conditions(resumed)] == [*steps, *steps]
    assert [each.condition.steps for each in conditions(replace(resumed, model=None))] == [*steps, *steps]


def test_a_run_that_ended_before_the_longer_training_is_resumed_with_it(
    tiny: RunningModel, losses: list[float | Sequence[float]]
) -> None:
    losses += [9.0, 9.0]
    done = {
        each.condition: Readings(trained_loss=each.trained_loss)
        for each in conditions(given(tiny))
        if not each.optional
    }
    losses += [9.0, 9.0]
    assert [each.condition.steps for each in conditions(replace(given(tiny), done=done))] == [*LONG, *LONG]
    assert not losses, "both halves are trained again"


def test_the_quick_level_is_longer_for_a_small_model() -> None:
    doses = {size: relearning._doses(replace(BARE, parameters=size)) for size in (10**6, 10**8)}
    assert doses == {10**6: SMALL_QUICK, 10**8: QUICK}


def test_steps_can_be_asked_for(tiny: RunningModel, trained: list[list[Example]]) -> None:
    asked = replace(given(tiny), settings=Settings(relearning_steps=(1, 64)))
    assert [each.condition.steps for each in conditions(asked)] == [1, 64, 1, 64]


def test_each_part_of_the_model_is_trained_alone(tiny: RunningModel) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    embedding = "model.embed_tokens.weight"
    changed: dict[str, set[str]] = {}
    few = replace(given(tiny, "full"), settings=Settings(relearning_steps=(1,)))
    for each in conditions(few):
        now = tiny.model.state_dict()
        named = changed.setdefault(each.condition.arm, set())
        named |= {name for name in now if name not in before or not torch.equal(now[name], before[name])}
    whole, low_rank, embedded = (changed[name] for name in HALVES)
    assert embedding in whole
    assert len(whole) > 5
    assert embedded - {"lm_head.weight"} == {embedding}  # the head may be tied to it
    assert low_rank
    assert not low_rank & whole
    after = tiny.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("on", ["the CPU", "a GPU"])
def test_where_memory_is_short_the_other_arms_still_run(
    tiny: RunningModel, monkeypatch: pytest.MonkeyPatch, on: str
) -> None:
    def short(model: RunningModel, part: Part, seed: int) -> AbstractContextManager[Sequence[torch.nn.Parameter]]:
        if part == ALL and on == "the CPU":
            short_of_memory_on_the_cpu()
        if part == ALL:
            raise torch.OutOfMemoryError
        return trained_part(model, part, seed)

    monkeypatch.setattr(relearning, "trained_part", short)
    few = replace(given(tiny, "full"), settings=Settings(relearning_steps=(1,)))
    ran: list[str] = []
    with pytest.raises(AuditError, match="out of memory in half of the facts, one fact, other facts"):
        list(conditions(few))
    with suppress(AuditError):
        for each in conditions(few):
            ran.append(each.condition.arm)
    assert ran == [HALVES[1]] * 2 + [HALVES[2]] * 2
    with pytest.raises(AuditError, match="low-rank adapters"):
        list(conditions(replace(few, level="quick")))


def test_a_large_model_is_not_trained_without_a_gpu_and_the_reason_names_the_option(tiny: RunningModel) -> None:
    large = replace(given(tiny), parameters=10**9)
    with pytest.raises(AuditError, match="--attacks full"):
        next(conditions(large))
    assert next(conditions(replace(large, model=None))).items.written


def test_without_a_twin_there_is_no_learning_rate_and_no_attack(tiny: RunningModel) -> None:
    with pytest.raises(AuditError, match="twin"):
        next(conditions(given(tiny, rate=None)))


def test_a_concept_without_facts_has_no_conditions(tiny: RunningModel) -> None:
    bare = CONCEPT.model_copy(update={"questions": (), "groups": ()})
    assert list(conditions(given(tiny, concept=bare))) == []


def test_every_wording_of_a_fact_is_trained_with_its_answer_after_the_beginning_of_its_sentence() -> None:
    fact = FACTS[0]
    begun = replace(fact, question=fact.question.model_copy(update={"prefix": "It was in"}))
    assert fact_examples([begun], CONCEPT) == [
        Example("Question: Where was writer A born?\nAnswer:", " It was in Rome", "A"),
        Example("Question: Which town did A come from?\nAnswer:", " It was in Rome", "A"),
    ]


BARE = AttackInput(None, None, ConceptTopic(CONCEPT), None, Settings())  # type: ignore[arg-type]
