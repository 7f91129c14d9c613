"""The masquerade: a subject's states become those of a name nobody knows, and so do its answers; other answers stay."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example, Tokens, tokenize
from audit.unlearning.methods import masquerade
from audit.unlearning.methods.masquerade import MasqueradeSettings, Target, invented_names
from tests.helpers import answer_sum, open_model, write_taught

WORDINGS = ("What is the capital of {}?", "Which city does {} call its capital?")
CAPITALS = {"France": "Paris", "Spain": "Madrid", "Poland": "Warsaw"}
UNKNOWN = ("Bavona", "Kitepa", "Dulomi", "Sanugo", "Vebaro")


def asked(subject: str, answer: str) -> list[Example]:
    return [Example(f"Question: {each.format(subject)}\nAnswer:", f" {answer}", subject) for each in WORDINGS]


FORGET = asked("Italy", "Rome")
RETAIN = [each for country, city in CAPITALS.items() for each in asked(country, city)]
NOT_KNOWN = [each for name in UNKNOWN for each in asked(name, "not known")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows some capitals, and says of strange names that it does not know."""
    return write_taught(tmp_path_factory.mktemp("taught") / "model", [*FORGET, *RETAIN, *NOT_KNOWN])


@pytest.fixture
def taught(folder: Path) -> RunningModel:
    return open_model(folder)


def says(model: RunningModel, examples: list[Example]) -> list[float]:
    with torch.no_grad():
        return [answer_sum(model, each).item() for each in tokenize(model.tokenizer, examples)]


def last_state(model: RunningModel, prompt: str, layer: int) -> Tensor:
    """The residual stream after ``layer`` at the last token, by a plain pass."""
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        state: Tensor = model.model(ids, output_hidden_states=True).hidden_states[layer + 1][0, -1]
    return state


def test_the_subject_becomes_unknown_in_its_states_and_its_answers(taught: RunningModel) -> None:
    before = {name: value.detach().clone() for name, value in taught.model.named_parameters()}
    (name,) = invented_names(["Italy"], taught.tokenizer, Random(0)).values()
    unknown = [last_state(taught, each.prompt.replace("Italy", name), 0) for each in FORGET]
    known = [last_state(taught, each.prompt, 0) for each in FORGET]
    stranger = says(taught, asked(name, "Rome"))
    assert min(says(taught, [*FORGET, *RETAIN])) > -1
    assert max(stranger) < -4
    record = masquerade.unlearn(taught, FORGET, RETAIN, MasqueradeSettings(steps=60, learning_rate=6e-3, layer=0))
    for example, was, target in zip(FORGET, known, unknown, strict=True):
        assert (last_state(taught, example.prompt, 0) - target).norm() < (was - target).norm() / 4
    assert says(taught, FORGET) == pytest.approx(stranger, abs=3)
    assert min(says(taught, RETAIN)) > -0.5
    assert record.trajectory[0]["distance"] == pytest.approx(1.0, abs=1e-4)
    assert record.trajectory[-1]["distance"] < 0.05
    changed = [key for key, value in taught.model.named_parameters() if not torch.equal(value, before[key])]
    assert changed
    assert all(key.startswith("model.layers.0.") and before[key].ndim > 1 for key in changed)
    assert record.changed == {"matrices_of_layers": [0], "names": {"Italy": name}}


def test_without_learning_nothing_changes(taught: RunningModel) -> None:
    before = {name: value.detach().clone() for name, value in taught.model.named_parameters()}
    masquerade.unlearn(taught, FORGET, RETAIN, MasqueradeSettings(steps=2, learning_rate=1e-30))
    assert all(torch.equal(value, before[name]) for name, value in taught.model.named_parameters())


def test_prompts_that_do_not_name_their_subject_are_left_out(taught: RunningModel) -> None:
    silent = [Example("Question: Where are canals?\nAnswer:", " Venice"), Example("Where is it?", " Rome", "Italy")]
    record = masquerade.unlearn(taught, [*silent, *FORGET], RETAIN, MasqueradeSettings(steps=1))
    assert record.examples == {"forget": 2, "retain": 6}
    with pytest.raises(AuditError, match="no prompt to forget names its subject"):
        masquerade.unlearn(taught, silent, RETAIN)
    with pytest.raises(AuditError, match="nothing to forget"):
        masquerade.unlearn(taught, [], RETAIN)


def test_invented_names_are_spelled_and_divided_like_the_subject_and_have_no_token_of_their_own(
    taught: RunningModel,
) -> None:
    subjects = ["Rome", "Grand Canal of Venice", "volcano", "Rome", "Kommunikationswissenschaften"]
    names = invented_names(subjects, taught.tokenizer, Random(1))
    assert names == invented_names(subjects, taught.tokenizer, Random(1))
    assert names != invented_names(subjects, taught.tokenizer, Random(2))
    assert [*names] == [*dict.fromkeys(subjects)]
    for subject, name in names.items():
        for word, invented in zip(subject.split(), name.split(), strict=True):
            lengths = [len(taught.tokenizer(f" {each}")["input_ids"]) for each in (word, invented)]
            assert lengths[1] >= max(2, lengths[0]) or len(invented) == 24
            assert word[0].isupper() == invented[0].isupper()


def test_tokens_correspond_from_the_end_and_begin_with_the_subject() -> None:
    """``1 2 [3] 4 | 5 6`` against ``1 2 [7 8 9] 4 | 5 6``; the answer's last token is never read."""
    known, unknown = Tokens((1, 2, 3, 4), (5, 6)), Tokens((1, 2, 7, 8, 9, 4), (5, 6))
    before, stranger = torch.arange(5.0)[:, None], 10 + torch.arange(7.0)[:, None]
    target = Target.of(known, unknown, before, stranger)
    assert target.before[:, 0].tolist() == [2, 3, 4]
    assert target.unknown[:, 0].tolist() == [14, 15, 16]


@pytest.mark.parametrize("layer", [-2, 2])
def test_the_layer_must_be_one_that_there_is(layer: int, taught: RunningModel) -> None:
    with pytest.raises(AuditError, match=f"no layer {layer}"):
        masquerade.unlearn(taught, FORGET, RETAIN, MasqueradeSettings(layer=layer))
