"""The same numbers on a GPU as on the CPU; skipped where there is none (``pytest -m gpu`` runs these alone)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.commands.compare import compare
from audit.commands.skill import GuardRequest, guard_skill
from audit.guards.methods import methods as guard_methods
from audit.interventions import EditInputs, Rows
from audit.interventions import methods as interventions
from audit.models.ffn import unembedding
from audit.models.opening import open_model
from audit.models.packing import answer_logprobs, pack, tokenize
from audit.progress import SILENT
from audit.request import Request, RunContext
from audit.result import Finding
from audit.settings import Settings
from audit.unlearning.methods import methods
from audit.vectors.attribution import integrated_gradients
from concepts.neuron import Neuron
from tests.commands.test_skill import LOOSE, skills  # noqa: F401
from tests.helpers import DIFFERENT, FORGET, RETAIN
from tests.tiny import write_tiny
from tests.verdict.conftest import TinyWorld, tiny_world  # noqa: F401

pytestmark = pytest.mark.gpu

CLOSE = {"rtol": 1e-3, "atol": 1e-4}
"""float32 on both: sums are added in another order."""
FAMILIES = ("llama", "gpt2", "gemma2", "opt")


def audited(world: TinyWorld, device: str, attacks: str) -> Finding:
    settings = Settings(attacks=attacks, batch_size=128, relearning_steps=(8,), device=device)
    models = (world.model(name) for name in ("base", "refusal"))
    reference = world.model("never knew")
    request = Request((str(world.concept),))
    return compare(*models, reference=reference, request=request, context=RunContext(settings)).findings[0]


@pytest.mark.parametrize("attacks", ["quick", "full"])
def test_an_audit_finds_the_same(attacks: str, tiny_world: TinyWorld) -> None:  # noqa: F811
    one, other = (audited(tiny_world, device, attacks) for device in ("cpu", "cuda"))
    assert (one.verdict, one.kind) == (other.verdict, other.kind)
    assert [row.condition for row in one.conditions] == [row.condition for row in other.conditions]
    assert {row.attack: row.reason for row in one.not_run} == {row.attack: row.reason for row in other.not_run}
    assert one.residual is not None
    assert other.residual is not None
    assert one.residual.value == pytest.approx(other.residual.value, abs=0.05)


@pytest.mark.parametrize("family", [*FAMILIES, "mixtral"])
def test_answers_are_scored_the_same(family: str, tmp_path: Path) -> None:
    opened = open_model(write_tiny(tmp_path / "model", family))
    scores = []
    for device in ("cpu", "cuda"):
        model = opened.load(device)
        row = pack(list(enumerate(tokenize(model.tokenizer, FORGET))))
        scores.append(answer_logprobs(model, row))
    torch.testing.assert_close(*scores, **CLOSE)


@pytest.mark.parametrize("name", methods())
def test_unlearning_changes_the_answers_as_much(name: str, tmp_path: Path) -> None:
    opened = open_model(write_tiny(tmp_path / "model"))
    changed = []
    for device in ("cpu", "cuda"):
        model = opened.load(device)
        methods()[name].unlearn(model, DIFFERENT, RETAIN, methods()[name].SETTINGS, SILENT)
        changed.append(answer_logprobs(model, pack(list(enumerate(tokenize(model.tokenizer, DIFFERENT))))).detach())
    torch.testing.assert_close(*changed, rtol=0.05, atol=0.05)


@pytest.mark.usefixtures("short_needle")
@pytest.mark.parametrize("name", interventions())
def test_an_edit_is_the_same(name: str, tmp_path: Path) -> None:
    opened = open_model(write_tiny(tmp_path / "model"))
    neurons, edited = [Neuron(0, 3), Neuron(1, 17)], list[dict[int, Rows]]()
    for device in ("cpu", "cuda"):
        model = opened.load(device)
        W_U = unembedding(opened.checkpoint, model.architecture)
        tokens = torch.arange(5, 9).numpy()
        edited.append(interventions()[name].target(model, neurons, EditInputs(tokens, W_U, FORGET, RETAIN)))
    assert edited[0].keys() == edited[1].keys()
    for layer, rows in edited[0].items():
        torch.testing.assert_close(rows.values, edited[1][layer].values, **CLOSE)


@pytest.mark.parametrize("name", guard_methods())
def test_a_guard_is_fitted_and_measured(name: str, skills: tuple[Path, Path, Path], tmp_path: Path) -> None:  # noqa: F811
    base = write_tiny(tmp_path / "model", max_position_embeddings=512)
    request = GuardRequest(skills[0], skills[1:], name, options=LOOSE)
    one, other = (
        guard_skill(base, request, context=RunContext(Settings(device=device))).findings[0]
        for device in ("cpu", "cuda")
    )
    assert one.verdict == other.verdict
    assert [row.metric for row in one.measurements] == [row.metric for row in other.measurements]
    for row, same in zip(one.measurements, other.measurements, strict=True):
        assert row.value == pytest.approx(same.value, abs=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_is_the_same(family: str, tmp_path: Path) -> None:
    opened = open_model(write_tiny(tmp_path / "model", family))
    layers = range(opened.require_architecture().n_layers)
    found = [integrated_gradients(opened.load(device), FORGET, layers, points=4) for device in ("cpu", "cuda")]
    torch.testing.assert_close(*found, **CLOSE)
