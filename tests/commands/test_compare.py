"""compare() on tiny checkpoints: each level of evidence, what is missing and why, and repeatability."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from audit.commands.compare import compare
from audit.commands.plan import plan_comparison
from audit.commands.verify import verify
from audit.errors import AuditError, ConceptError, IncomparableError
from audit.metrics import topic_metrics
from audit.request import Request, RunContext
from audit.result import AuditResult
from audit.settings import Settings
from concepts.concept import load_concept
from tests.tiny import edit, write_tiny

QUICK = RunContext(Settings(limit=4, attacks="none"))
ITALY = Request(concepts=["italy"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model and the same with some noise on one matrix."""
    folder = tmp_path_factory.mktemp("pair")
    base = write_tiny(folder / "base")
    return base, edit(base, folder / "unlearned", nudged)


def nudged(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if name != "model.layers.1.mlp.down_proj.weight":
        return tensor
    return tensor + 0.01 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))


def without(folder: Path, target: Path, *names: str) -> Path:
    """A copy of a model folder without some files."""
    return Path(shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*names)))


def reasons(result: AuditResult) -> dict[str, str]:
    return {row.metric: row.reason for row in result.not_checked}


def test_every_metric_appears_in_the_finding_measured_or_with_its_reason(pair: tuple[Path, Path]) -> None:
    result = compare(*pair, request=ITALY, context=QUICK)
    (finding,) = result.findings
    assert {row.metric for row in finding.measurements} == set(topic_metrics())
    for row in finding.measurements:
        assert (row.value is None) == (row.metric in reasons(result))


def test_a_base_that_knows_nothing_is_inconclusive(pair: tuple[Path, Path]) -> None:
    (finding,) = compare(*pair, request=ITALY, context=QUICK).findings
    assert finding.verdict == "inconclusive"
    assert "The base says 0 of" in finding.reason


def test_the_same_settings_give_the_same_bytes_but_for_times(pair: tuple[Path, Path]) -> None:
    once, again = (json.loads(compare(*pair, request=ITALY, context=QUICK).to_json()) for _ in range(2))
    for document in (once, again):
        for field in ("started", "finished", "seconds"):
            document["run"].pop(field)
    assert once == again


def test_an_attack_that_cannot_be_run_is_listed_with_the_reason_and_planned_without(pair: tuple[Path, Path]) -> None:
    context = RunContext(Settings(limit=2, attacks="chat,paraphrase"))
    assert reasons(compare(*pair, request=ITALY, context=context))["chat"] == "the tokenizer has no chat template."
    assert [attack.name for attack in plan_comparison(*pair, request=ITALY, context=context).attacks] == ["paraphrase"]


def test_no_concept_still_answers_what_changed(pair: tuple[Path, Path]) -> None:
    result = compare(*pair)
    assert result.weights.changed_tensors == 1
    assert {neuron.layer for neuron in result.weights.top_neurons} == {1}
    assert [finding.verdict for finding in result.findings] == ["inconclusive"]
    assert "--concept" in result.findings[0].would_reverse


def test_a_missing_config_leaves_the_rest_and_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    bare = [without(folder, tmp_path / folder.name, "config.json") for folder in pair]
    result = compare(*bare, request=ITALY, context=QUICK)
    assert "config.json" in reasons(result)["exact_memorisation"]
    assert "no value vector" in reasons(result)["vector_cosine"]  # searched for, without a config
    assert result.findings[0].verdict == "inconclusive"
    assert "config.json" in result.findings[0].reason


def test_a_missing_tokenizer_is_named_and_can_be_given(pair: tuple[Path, Path], tmp_path: Path) -> None:
    bare = [without(folder, tmp_path / folder.name, "tokenizer*") for folder in pair]
    result = compare(*bare, request=ITALY, context=QUICK)
    assert "--tokenizer" in reasons(result)["exact_memorisation"]
    given = compare(*bare, tokenizer=pair[0], request=ITALY, context=QUICK)
    assert "exact_memorisation" not in reasons(given)


def test_bare_state_dicts_of_an_unknown_family_are_compared_tensor_by_tensor(tmp_path: Path) -> None:
    state = {"body.weight": torch.eye(4), "body.bias": torch.zeros(4)}
    torch.save(state, tmp_path / "base.pt")
    torch.save({**state, "body.weight": 2 * torch.eye(4)}, tmp_path / "unlearned.pt")
    result = compare(tmp_path / "base.pt", tmp_path / "unlearned.pt", request=ITALY)
    assert result.weights.changed_tensors == 1
    assert result.subjects.base.architecture is None
    assert "supported family" in reasons(result)["vector_cosine"]


def test_identical_weights_say_so(pair: tuple[Path, Path]) -> None:
    (finding,) = compare(pair[0], pair[0]).findings
    assert "identical, bit for bit" in finding.reason


def test_a_rounded_copy_is_run_and_not_taken_for_the_base(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base")
    rounded = edit(base, tmp_path / "rounded", lambda name, tensor: tensor.to(torch.bfloat16))
    result = compare(base, rounded, request=Request(concepts=["italy"]), context=RunContext(Settings(limit=4)))
    assert (result.weights.identical, result.weights.equal_at_coarser) == (False, "bfloat16")
    answers = result.findings[0]["answer_log_probability"]
    assert answers.value != answers.base
    assert "equal at the coarser precision (bfloat16)" in result.findings[0].reason
    result.write(tmp_path / "result.json")
    assert verify(tmp_path / "result.json").holds


def test_identical_weights_behind_a_guard_are_gated(pair: tuple[Path, Path], tmp_path: Path) -> None:
    guard = tmp_path / "guard.json"
    guard.write_text("{}")
    result = compare(pair[0], pair[0], request=Request(guard=guard))
    assert result.findings[0].verdict == "gated"
    assert len(result.run.settings["guard"]["sha256"]) == 64


def test_a_guard_that_does_not_exist_is_an_error(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no such guard"):
        compare(*pair, request=Request(guard=tmp_path / "nothing"))


def test_weights_that_are_not_finite_are_never_run(pair: tuple[Path, Path], tmp_path: Path) -> None:
    def broken(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor * float("nan") if name == "model.norm.weight" else tensor

    result = compare(
        pair[0],
        edit(pair[0], tmp_path / "broken", broken),
        request=ITALY,
        context=QUICK,
    )
    assert result.findings[0].verdict == "inconclusive"
    assert "model.norm.weight" in result.findings[0].reason
    result.write(tmp_path / "result.json")  # no NaN reaches the JSON


def test_every_reading_includes_the_retained_model(pair: tuple[Path, Path], tmp_path: Path) -> None:
    result = compare(
        *pair,
        retained=write_tiny(tmp_path / "retained", seed=3),
        request=ITALY,
        context=QUICK,
    )
    assert result.subjects.retained is not None
    assert result.findings[0]["exact_memorisation"].retained is not None
    assert result.findings[0]["perplexity"].retained is not None


def test_models_of_different_width_are_an_error_with_both_numbers(pair: tuple[Path, Path], tmp_path: Path) -> None:
    wider = write_tiny(tmp_path / "wider", hidden_size=32)
    with pytest.raises(IncomparableError, match=r"16.*32"):
        compare(pair[0], wider)


@pytest.mark.parametrize(
    ("names", "said"), [(["itly"], "italy"), (["italy", "italy"], "twice"), (["no/such.toml"], "such.toml")]
)
def test_an_unusable_concept_is_an_error_before_any_weights_are_read(names: list[str], said: str) -> None:
    with pytest.raises(ConceptError, match=said):
        compare("absent-base", "absent-unlearned", request=Request(concepts=names))


def test_german_questions_come_from_a_file_and_are_part_of_the_record(pair: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "german.json"
    file.write_text(json.dumps({"Italy": [f"Frage {place}?" for place in range(len(load_concept("italy").questions))]}))
    given = compare(*pair, request=Request(concepts=["italy"], translations=file), context=QUICK)
    bare = compare(*pair, request=ITALY, context=QUICK)
    assert given.run.settings["concepts"] != bare.run.settings["concepts"]
    with pytest.raises(ConceptError, match="no questions on 'France'"):
        compare(*pair, request=Request(concepts=["france"], translations=file))


def test_two_formats_of_one_model_are_the_same_model(pair: tuple[Path, Path], tmp_path: Path) -> None:
    from audit.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(pair[1])
    torch.save({"state_dict": {name: checkpoint.tensor(name) for name in checkpoint.tensors}}, tmp_path / "model.pt")
    result = compare(pair[1], tmp_path / "model.pt", request=ITALY, context=QUICK)
    assert result.weights.changed_tensors == 0
    assert result.subjects.base.tensors_digest == result.subjects.unlearned.tensors_digest


def test_progress_is_reported(pair: tuple[Path, Path]) -> None:
    steps: list[str] = []

    class Listener:
        def step(self, text: str, done: int | None = None, total: int | None = None, detail: str = "") -> None:
            steps.append(text)

    compare(*pair, context=RunContext(progress=Listener()))
    assert "Comparing weights" in steps


def test_the_real_model_with_a_barely_changed_norm_is_present(smollm2: Path, tmp_path: Path) -> None:
    def scaled_norm(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor * (1 + 1e-6) if name == "model.norm.weight" else tensor

    unlearned = edit(smollm2, tmp_path / "unlearned", scaled_norm)
    (finding,) = compare(
        smollm2, unlearned, request=ITALY, context=RunContext(settings=Settings(limit=12, attacks="none"))
    ).findings
    assert finding.verdict == "present", finding.reason


def test_the_real_model_with_noise_in_its_ffns_is_destroyed(smollm2: Path, tmp_path: Path) -> None:
    """A few questions and the neutral text are enough to see it."""
    generator = torch.Generator().manual_seed(0)

    def noise(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator) * tensor.std() if "up_proj" in name else tensor

    italy = load_concept("italy")
    lines = [f"title = {json.dumps(italy.title)}", f"seeds = {json.dumps(italy.seeds)}"]
    for question in italy.questions[:14]:
        lines += [
            "[[questions]]",
            f"question = {json.dumps(question.question)}",
            f"answer = {json.dumps(question.answer)}",
        ]
    (tmp_path / "short-italy.toml").write_text("\n".join(lines))
    (finding,) = compare(
        smollm2,
        edit(smollm2, tmp_path / "unlearned", noise),
        request=Request(concepts=[str(tmp_path / "short-italy.toml")]),
        context=RunContext(settings=Settings(attacks="none")),
    ).findings
    assert finding.verdict == "destroyed", finding.reason
