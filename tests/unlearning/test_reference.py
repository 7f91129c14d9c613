"""Methods that learn from a reference: they land on it, do nothing where it is the model, and refuse other tokens."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audit.commands.unlearn import settings_of
from audit.errors import AuditError, CheckpointError
from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, answer_logprobs, pack, tokenize
from audit.unlearning.methods import ignorant_teacher, methods, oracle_matching
from audit.unlearning.methods.ignorant_teacher import IgnorantTeacherSettings
from audit.unlearning.methods.oracle_matching import OracleMatchingSettings
from audit.unlearning.reference import open_reference, read_reference
from tests.helpers import FORGET, RETAIN, Log, answer_sum, open_model, write_taught
from tests.tiny import tokenizer, write_tiny

DIFFERENT = [FORGET[0], Example("Question: Which city has canals?\nAnswer:", " Venice")]
LEARNERS = ("ignorant_teacher", "oracle_matching")
FAST: dict[str, Any] = {"learning_rate": 6e-3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny model trained on all facts, and one on those to retain alone."""
    folder = tmp_path_factory.mktemp("trained")
    facts = {"model": [*DIFFERENT, *RETAIN], "reference": RETAIN}
    return {name: write_taught(folder / name, examples) for name, examples in facts.items()}


def says(model: RunningModel, examples: list[Example]) -> list[float]:
    with torch.no_grad():
        return [answer_sum(model, each).item() for each in tokenize(model.tokenizer, examples)]


def outputs(model: RunningModel, examples: list[Example]) -> Tensor:
    with torch.no_grad():
        return answer_logprobs(model, pack([*enumerate(tokenize(model.tokenizer, examples))]))


def weights(model: RunningModel) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.model.parameters()])


# ---- what the methods do


def test_oracle_matching_lands_on_the_outputs_of_the_reference_and_stays_near_the_models_weights(
    trained: dict[str, Path],
) -> None:
    model, reference = (open_model(trained[name]) for name in ("model", "reference"))
    before, both = weights(model), [*DIFFERENT, *RETAIN]
    assert min(says(model, DIFFERENT)) > -1
    assert max(says(reference, DIFFERENT)) < -20
    distance = (outputs(model, both) - outputs(reference, both)).square().mean()
    settings = OracleMatchingSettings(steps=100, reference=str(trained["reference"]), **FAST)
    record = oracle_matching.unlearn(model, DIFFERENT, RETAIN, settings)
    assert (outputs(model, both) - outputs(reference, both)).square().mean() < distance / 20
    assert max(says(model, DIFFERENT)) < -10
    assert min(says(model, RETAIN)) > -0.1
    assert (weights(model) - before).norm() < (weights(model) - weights(reference)).norm() / 1.5
    assert record.examples == {"forget": 2, "retain": 3}


def test_the_loss_of_oracle_matching_is_the_mean_squared_difference_of_log_probabilities(
    trained: dict[str, Path],
) -> None:
    model, reference = (open_model(trained[name]) for name in ("model", "reference"))
    forget, retain = ((outputs(model, each) - outputs(reference, each)).square().mean() for each in (DIFFERENT, RETAIN))
    settings = OracleMatchingSettings(steps=1, retain_weight=3.0, reference=str(trained["reference"]))
    (row,) = oracle_matching.unlearn(model, DIFFERENT, RETAIN, settings).trajectory
    assert row["matched"] == pytest.approx(forget.item(), rel=1e-4)
    assert row["loss"] == pytest.approx((forget + 3 * retain).item(), rel=1e-4)


def test_an_ignorant_teacher_makes_forget_and_moves_the_internals_too(trained: dict[str, Path]) -> None:
    records = []
    for weight in (0.0, 1.0):
        model = open_model(trained["model"])
        settings = IgnorantTeacherSettings(
            steps=40, activation_weight=weight, reference=str(trained["reference"]), **FAST
        )
        records.append(ignorant_teacher.unlearn(model, DIFFERENT, RETAIN, settings))
        assert max(says(model, DIFFERENT)) < -8
        assert min(says(model, RETAIN)) > -1
    alone, both = (record.trajectory for record in records)
    assert alone[0]["activation"] == pytest.approx(both[0]["activation"], rel=1e-5)
    assert both[-1]["activation"] < both[0]["activation"] / 20
    assert both[-1]["activation"] < alone[-1]["activation"] / 4
    assert both[-1]["teacher"] < both[0]["teacher"] / 20


@pytest.mark.parametrize("name", LEARNERS)
def test_where_the_reference_is_the_model_there_is_no_loss_and_no_update(name: str, trained: dict[str, Path]) -> None:
    """With one example in each batch: other rows differ by rounding, which Adam's first steps amplify."""
    for reference in ("model", "reference"):
        model = open_model(trained["model"])
        before = weights(model)
        settings = replace(
            methods()[name].SETTINGS, steps=3, retain_weight=0.0, reference=str(trained[reference]), **FAST
        )
        losses = [row["loss"] for row in methods()[name].unlearn(model, FORGET[:1], [], settings, Log()).trajectory]
        assert (losses == [0.0] * 3) == (reference == "model")
        assert torch.equal(weights(model), before) == (reference == "model")


# ---- the reference


def test_the_reference_is_in_memory_only_while_it_is_read(trained: dict[str, Path]) -> None:
    model, settings = open_model(trained["model"]), OracleMatchingSettings(reference=str(trained["reference"]))
    seen: list[weakref.ref[Any]] = []

    def read(reference: RunningModel, row: Pack) -> list[int]:
        seen.append(weakref.ref(reference.model))
        return [*row.examples]

    examples = tokenize(model.tokenizer, [*FORGET, *RETAIN])
    settings = replace(settings, forget_batch=1, retain_batch=1)
    found = read_reference(open_reference(settings, model), model, examples, read, settings, Log())
    gc.collect()
    assert found == [*range(len(examples))]
    assert len(seen) == 3
    assert all(each() is None for each in seen)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_reference_must_be_given(name: str, trained: dict[str, Path]) -> None:
    with pytest.raises(AuditError, match="needs the option 'reference'"):
        settings_of(name, {"steps": 3})
    with pytest.raises(AuditError, match="none is given"):
        methods()[name].unlearn(open_model(trained["model"]), FORGET, RETAIN, methods()[name].SETTINGS, Log())


@pytest.mark.parametrize("name", LEARNERS)
def test_a_reference_that_is_not_there_is_an_error(name: str, trained: dict[str, Path], tmp_path: Path) -> None:
    settings = replace(methods()[name].SETTINGS, reference=str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match="none"):
        methods()[name].unlearn(open_model(trained["model"]), FORGET, RETAIN, settings, Log())


def other_tokens(folder: Path) -> None:
    """Two tokens change places."""
    saved = tokenizer()
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    one, other = saved.convert_ids_to_tokens(300), saved.convert_ids_to_tokens(301)
    swapped = text.replace(f'"{one}": 300', f'"{one}": 301').replace(f'"{other}": 301', f'"{other}": 300')
    assert swapped != text
    (folder / "tokenizer.json").write_text(swapped, encoding="utf-8")


def other_division(folder: Path) -> None:
    """The same tokens, but text is read in small letters."""
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert '"normalizer": null' in text
    (folder / "tokenizer.json").write_text(
        text.replace('"normalizer": null', '"normalizer": {"type": "Lowercase"}'), encoding="utf-8"
    )


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


@pytest.mark.parametrize("change", [other_tokens, other_division, no_tokenizer])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_reference_with_other_tokens_is_refused(
    name: str, change: Any, trained: dict[str, Path], tmp_path: Path
) -> None:
    change(write_tiny(tmp_path / "other"))
    settings = replace(methods()[name].SETTINGS, reference=str(tmp_path / "other"))
    with pytest.raises(AuditError, match=r"other: the reference has another tokenizer"):
        methods()[name].unlearn(open_model(trained["model"]), FORGET, RETAIN, settings, Log())


def test_a_teacher_has_the_layers_of_the_model_and_an_oracle_need_not(trained: dict[str, Path], tmp_path: Path) -> None:
    deeper = str(write_tiny(tmp_path / "deeper", num_hidden_layers=3))
    model = open_model(trained["model"])
    with pytest.raises(AuditError, match="the reference has 3 layers, the model 2"):
        ignorant_teacher.unlearn(model, FORGET, RETAIN, IgnorantTeacherSettings(reference=deeper))
    record = oracle_matching.unlearn(model, FORGET, RETAIN, OracleMatchingSettings(steps=2, reference=deeper))
    assert len(record.trajectory) == 2
