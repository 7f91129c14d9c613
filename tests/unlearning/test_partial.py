"""The partial-identification curve: what is listed and left out, its two ends, and facts that were not listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from audit.attacks.relearning import fact_examples
from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from audit.unlearning.methods import grad_diff
from audit.unlearning.partial import Point, partial_curve, usable_facts
from concepts.concept import Concept, Question
from concepts.facts import Fact
from tests.helpers import RETAIN, open_tiny

PEOPLE = {"Ada": ("Rome", "baker"), "Ben": ("Paris", "farmer"), "Cleo": ("Milan", "nurse"), "Dan": ("Lyon", "smith")}
FORMS = {"town": "In which town does {} live?", "work": "What is the work of {}?"}
CONCEPT = Concept(
    name="people",
    title="People",
    seeds=("Ada",),
    questions=tuple(
        Question(question=form.format(person), answer=answer, type=type_, subject=person)
        for person, answers in PEOPLE.items()
        for (type_, form), answer in zip(FORMS.items(), answers, strict=True)
    ),
    examples=0,
)
SETTINGS = grad_diff.GradDiffSettings(steps=12, learning_rate=2e-3, retain_weight=1.0)


def examples(facts: Sequence[Fact]) -> list[Example]:
    return fact_examples(facts, CONCEPT)


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> RunningModel:
    """A tiny model that says the facts."""
    model = open_tiny(tmp_path_factory.mktemp("partial") / "m", "llama", hidden_size=64, intermediate_size=128)
    everything = [*examples(usable_facts(CONCEPT).facts), *RETAIN]
    ended = [Example(each.prompt, f"{each.answer}\n\n") for each in everything]
    list(fine_tune(model, ended, [80], FineTuning(2e-3)))
    return model


def curve(model: RunningModel, shares: Sequence[float], concept: Concept = CONCEPT) -> list[Point]:
    return list(partial_curve(model, concept, grad_diff, SETTINGS, examples, RETAIN, shares))


# ---- which facts are listed


def asked(*questions: tuple[str, str, str]) -> Concept:
    """A concept of (subject, question, answer)."""
    chosen = tuple(Question(question=text, answer=answer, subject=subject) for subject, text, answer in questions)
    return Concept(name="few", title="Few", questions=chosen)


def test_siblings_that_tell_each_other_and_lone_facts_are_dropped_and_counted() -> None:
    usable = usable_facts(
        asked(
            ("Ada", "Where was she born?", "Rome"),
            ("Ada", "Which city is her home?", "Rome, Italy"),
            ("Ada", "What does she do in Rome?", "She bakes"),
            ("Ada", "What is her pet?", "A cat"),
            ("Ben", "Where was he born?", "Rome"),
            ("Ben", "What did he say at his birth in Rome?", "Nothing"),
            ("Cleo", "Where does she swim?", "Oslo"),
        )
    )
    assert usable.ids == ("fact/0", "fact/3")
    assert [fact.answer for fact in usable.facts] == ["Rome", "A cat"]
    assert (usable.entailed, usable.alone) == (3, 2)


def test_every_subject_is_split_and_what_a_smaller_share_lists_stays_listed() -> None:
    usable = usable_facts(CONCEPT)
    none, half, everything = (usable.listed(share, seed=0) for share in (0.0, 0.5, 1.0))
    assert not none.any()
    assert everything.all()
    for subject in PEOPLE:
        own = [place for place, fact in enumerate(usable.facts) if fact.subject == subject]
        assert half[own].sum() == 1
    assert (half == usable.listed(0.5, seed=0)).all()
    assert any((half != usable.listed(0.5, seed=seed)).any() for seed in range(1, 6))
    eight = replace(usable, facts=tuple(replace(fact, subject="one") for fact in usable.facts))
    shares = [eight.listed(share, seed=0) for share in (0.25, 0.5, 0.75)]
    assert [listed.sum() for listed in shares] == [2, 4, 6]
    assert all((larger | smaller).sum() == larger.sum() for smaller, larger in pairwise(shares))


@pytest.mark.parametrize("share", [0.125, 0.25, 0.5, 0.75])
def test_a_share_of_few_facts_is_met_over_all_subjects(share: float) -> None:
    usable = usable_facts(CONCEPT)  # two facts of each subject
    assert usable.listed(share, seed=0).mean() == share
    smaller, larger = usable.listed(share, seed=3), usable.listed(share + 0.125, seed=3)
    assert (larger | smaller).sum() == larger.sum() > smaller.sum()


# ---- the curve


def test_with_nothing_listed_the_model_is_the_base_bit_for_bit(knowing: RunningModel) -> None:
    before = [parameter.clone() for parameter in knowing.model.parameters()]
    for point in partial_curve(knowing, CONCEPT, grad_diff, SETTINGS, examples, RETAIN, (0.0,)):
        assert all(map(torch.equal, knowing.model.parameters(), before))
        assert point.says.tolist() == [1.0] * 8
        assert (point.nats > 0).all()


def test_with_everything_listed_it_is_the_ordinary_run(knowing: RunningModel) -> None:
    before = [parameter.clone() for parameter in knowing.model.parameters()]
    for _ in partial_curve(knowing, CONCEPT, grad_diff, SETTINGS, examples, RETAIN, (1.0,)):
        partial = [parameter.clone() for parameter in knowing.model.parameters()]
    assert all(map(torch.equal, knowing.model.parameters(), before))
    grad_diff.unlearn(knowing, examples(usable_facts(CONCEPT).facts), RETAIN, SETTINGS, SILENT)
    ordinary = [parameter.clone() for parameter in knowing.model.parameters()]
    with torch.no_grad():
        for parameter, value in zip(knowing.model.parameters(), before, strict=True):
            parameter.copy_(value)
    assert all(map(torch.equal, partial, ordinary))
    assert not all(map(torch.equal, partial, before))


def test_listed_facts_go_first_and_each_point_starts_from_the_base(knowing: RunningModel) -> None:
    half, alone = curve(knowing, (1.0, 0.5))[1], curve(knowing, (0.5,))[0]
    assert np.array_equal(half.nats, alone.nats)
    assert half.listed.sum() == 4
    assert half.says[half.listed].mean() < 0.5
    assert half.nats[half.listed].mean() < half.nats[~half.listed].mean()


def test_what_cannot_be_split_is_refused(knowing: RunningModel) -> None:
    with pytest.raises(AuditError, match="no subject of Few has 2 facts"):
        curve(knowing, (0.5,), asked(("Ada", "Where was she born?", "Rome")))
    with pytest.raises(AuditError, match="between 0 and 1"):
        curve(knowing, (1.5,))
