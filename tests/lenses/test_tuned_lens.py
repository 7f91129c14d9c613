"""The tuned lens: maps that are fitted on neutral text alone, and say more of the last layer than the logit lens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from audit.errors import AuditError
from audit.lenses.tuned_lens import PENALTIES, Translators, _fitted, _streams, translators
from audit.models.forward import Row, run
from audit.models.loading import RunningModel
from audit.questions.conditions import AS_IS
from audit.questions.items import Encoder
from audit.questions.readings import read
from audit.questions.topics import ConceptTopic
from audit.request import RunContext
from audit.settings import Settings
from audit.topic_reader import TopicReader
from concepts.concept import Concept
from tests.helpers import open_tiny

TEXTS = [tuple(range(3 + start, 43 + start)) for start in range(0, 80, 10)]
CONCEPT = Concept.model_validate(
    {
        "name": "writers",
        "title": "Writers",
        "seeds": ["Quill"],
        "questions": [
            {"question": f"Where was writer {name} born?", "answer": town, "type": "town"}
            for name, town in {"A": "Rome", "B": "Lyon", "C": "Milan", "D": "Paris"}.items()
        ],
        "neutral_text": "Rivers run to the sea, slowly.\n\nRain falls on the hills in winter.\n\nSnow is white.",
    }
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RunningModel:
    return open_tiny(tmp_path_factory.mktemp("model") / "m", "llama")


def fitted(streams: torch.Tensor, penalty: float) -> Translators:
    (found,) = _fitted(streams, [penalty])
    return found


def test_an_affine_relation_between_layers_is_found() -> None:
    rng = torch.Generator().manual_seed(0)
    first = torch.randn(200, 12, generator=rng)
    turn, shift = torch.randn(12, 12, generator=rng), torch.randn(12, generator=rng)
    streams = torch.stack([first, first @ turn + shift])
    found = fitted(streams, min(PENALTIES)).translate(streams)
    torch.testing.assert_close(found[0], streams[1], rtol=0.05, atol=0.2)
    assert torch.equal(found[1], streams[1])


def test_without_a_relation_only_the_shift_is_left() -> None:
    rng = torch.Generator().manual_seed(1)
    streams = torch.stack([torch.randn(300, 6, generator=rng), torch.randn(300, 6, generator=rng) + 5.0])
    found = fitted(streams, max(PENALTIES)).translate(streams)
    torch.testing.assert_close(found[0].mean(0), streams[1].mean(0), atol=1e-3, rtol=0)


def test_the_last_layer_is_left_as_it_is_and_earlier_ones_come_nearer(tiny: RunningModel) -> None:
    found = translators(tiny, TEXTS)
    for text in [tuple(range(100, 140)), tuple(range(60, 100))]:  # not among the texts
        streams = _streams(tiny, text)[:, 1:]
        moved = found.translate(streams)
        assert torch.equal(moved[-1], streams[-1])
        assert (moved[0] - streams[-1]).norm() < (streams[0] - streams[-1]).norm()


def test_streams_are_those_of_the_readings(tiny: RunningModel) -> None:
    (batch,) = run(tiny, [Row(TEXTS[0], len(TEXTS[0]) - 1)])
    torch.testing.assert_close(_streams(tiny, TEXTS[0])[:, -1], batch.residual[:, 0], rtol=1e-4, atol=1e-4)


def test_two_texts_are_needed(tiny: RunningModel) -> None:
    with pytest.raises(AuditError, match="two paragraphs"):
        translators(tiny, [TEXTS[0], (5,)])


def test_the_layers_are_read_through_it_and_the_output_is_not(tiny: RunningModel) -> None:
    items = ConceptTopic(CONCEPT).items(Encoder(tiny.tokenizer, tiny.context)).facts()
    plain, tuned = read(tiny, items), read(replace(tiny, translate=translators(tiny, TEXTS).translate), items)
    key = ("fact", "town")
    assert np.array_equal(plain.scores[key], tuned.scores[key])
    assert np.allclose(plain.lens[key][-1], tuned.lens[key][-1])
    assert not np.allclose(plain.lens[key][0], tuned.lens[key][0])


def test_it_is_an_option_of_an_audit_and_missing_text_does_not_end_it(tiny: RunningModel) -> None:
    def lens(setting: str, concept: Concept) -> tuple[np.ndarray, TopicReader]:
        reader = TopicReader(ConceptTopic(concept), RunContext(Settings(attacks="none", lens=setting)), {})
        reader.read(tiny, "base")
        return reader.by_condition[AS_IS]["base"].lens["fact", "town"], reader

    (logit, _), (tuned, reader) = lens("logit", CONCEPT), lens("tuned", CONCEPT)
    assert not np.allclose(logit[0], tuned[0])
    assert not reader.not_run
    bare = CONCEPT.model_copy(update={"neutral_text": "One paragraph."})
    found, reader = lens("tuned", bare)
    assert np.allclose(found, logit)
    assert "two paragraphs" in reader.not_run["base", "tuned lens"]
