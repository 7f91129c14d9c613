"""guard_skill(): the guards it fits, the result it returns, and what it refuses before slow work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.commands.skill import GuardRequest, guard_skill
from audit.commands.verify import verify
from audit.errors import AuditError
from audit.guards import load_guard, read_guard
from audit.guards.methods import _neurons, key_space, methods
from audit.guards.splits import held_out_queries, read_skills, tokenize_skill
from audit.models.keys import collect
from audit.request import RunContext
from audit.result import AuditResult, Finding, Measurement
from audit.settings import Settings
from concepts.region_choice import load_background
from concepts.regions import Vote
from reports.html import render
from reports.text import render_skill
from tests.helpers import FORGET_PROMPTS, greedy_tokens, open_model, token_ids
from tests.tiny import write_tiny

LOOSE: dict[str, Any] = {"misses": 0.3}


def skill_file(path: Path, prompts: list[str]) -> Path:
    answers = ("Rome", "Milan", "Venice")
    rows = [{"prompt": prompt, "answer": answers[at % len(answers)]} for at, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def skills(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Three skills of twelve queries: capitals, which are to be forgotten, dogs and months."""
    return (
        skill_file(tmp_path / "capitals.jsonl", [f"Question: What is the capital of Italy, {n}?" for n in range(12)]),
        skill_file(tmp_path / "dogs.jsonl", [f"A puppy is a young dog of {n} days." for n in range(12)]),
        skill_file(tmp_path / "months.jsonl", [f"February has twenty-eight days, {n} of them." for n in range(12)]),
    )


def guarded(base: Path, skills: tuple[Path, Path, Path], method: str = "key-space", **given: Any) -> AuditResult:
    context = given.pop("context", RunContext())
    return guard_skill(
        base, GuardRequest(skills[0], skills[1:], method, **({"options": LOOSE} | given)), context=context
    )


def only(result: AuditResult) -> tuple[Finding, Measurement]:
    """The one finding and its first measurement."""
    (finding,) = result.findings
    return finding, finding.measurements[0]


@pytest.mark.parametrize("method", sorted(methods()))
def test_a_guarded_skill_is_gated_and_the_result_is_one_like_any_other(
    method: str, skills: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base = write_tiny(tmp_path / "model", max_position_embeddings=512)
    result = guarded(base, skills, method, save=tmp_path / "guard", context=RunContext(command="audit skill"))
    finding, measured = only(result)
    assert (finding.concept, finding.verdict) == ("capitals", "gated")
    assert "(guard) lies outside the weights" in finding.reason
    assert "was not attacked here" in finding.reason
    assert result.subjects.base == result.subjects.unlearned
    assert result.weights.changed_tensors == 0
    assert {("gate_leak", "capitals"), ("relearning", "capitals")} <= {
        (row.metric, row.concept) for row in result.not_checked
    }
    assert [row["role"] for row in measured.items][:4] == ["forget", "retain", "retain", "text"]
    assert measured.items[0]["n"] == 4
    assert result.run.settings["fit"]["method"] == method
    assert [part["role"] for part in result.run.settings["parts"]] == ["forget", "retain", "retain"]
    load_guard(open_model(base).model, tmp_path / "guard").remove()
    result.write(tmp_path / "result.json")
    assert AuditResult.read(tmp_path / "result.json") == result
    assert "capitals" in render(result)
    assert "dogs (retain)" in render_skill(result)


@pytest.mark.parametrize("save", [True, False])
def test_a_guards_result_verifies_and_a_changed_sentence_or_guard_is_noticed(
    save: bool, skills: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, guard = write_tiny(tmp_path / "model", max_position_embeddings=512), tmp_path / "guard"
    result = guarded(base, skills, save=guard if save else None)
    result.write(tmp_path / "result.json")
    assert verify(tmp_path / "result.json").holds
    document = json.loads((tmp_path / "result.json").read_text())
    document["findings"][0]["reason"] = "It was removed."
    (tmp_path / "forged.json").write_text(json.dumps(document))
    forged = verify(tmp_path / "forged.json")
    assert forged.difference is not None
    assert forged.difference.field == "findings[0].reason"
    if save:
        (guard / "guard.json").write_text((guard / "guard.json").read_text() + "\n")
        changed = verify(tmp_path / "result.json")
        assert changed.difference is not None
        assert changed.difference.field == "run.settings.guard.sha256"
        guard.rename(tmp_path / "elsewhere")
        moved = verify(tmp_path / "result.json")
        assert moved.holds
        assert any("guard" in note and "not verified" in note for note in moved.notes)


# ---- key space


def test_a_region_is_compared_with_the_papers_and_with_fits_without_each_other_skill(
    skills: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base = write_tiny(tmp_path / "model", max_position_embeddings=512)
    _, inside = only(guarded(base, skills, save=tmp_path / "guard"))
    roles = {kind: [row["role"] for row in inside.items if row["region"] == kind] for kind in ("vote", "hypercube")}
    assert roles["vote"] == ["forget", "retain", "retain", "text", "left out", "left out"]
    assert roles["hypercube"] == ["forget", "retain", "retain", "text", *["wrong centre"] * 3]
    assert [row["skill"] for row in inside.items if row["role"] == "left out"] == ["dogs", "months"]
    assert (inside.value, inside.n) == (1.0, 4)
    assert inside.interval is not None
    assert inside.interval[0] < 1.0
    assert inside.control is not None
    others = {row["skill"]: row["inside"] for row in inside.items[1:3]}
    assert inside.control.value == max(others.values())
    assert list(inside.layers) == ["held_out_inside", "others_inside: dogs", "others_inside: months"]
    assert all(len(series) == 2 for series in inside.layers.values())
    (vote,) = inside.details["vote"].values()
    assert vote["held_out_inside"] == 1.0
    assert vote["others_inside"] == others
    assert set(vote["left_out_inside"]) == {"dogs", "months"}
    ((layer, cube),) = inside.details["hypercube"].items()
    assert cube["held_out_inside"] == inside.layers["held_out_inside"][int(layer)]


def test_the_goals_are_those_of_the_table_and_neutral_text_has_none(
    skills: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, inside = only(guarded(write_tiny(tmp_path / "model", max_position_embeddings=512), skills))
    wanted = {"forget": "at least 0.97", "retain": "at most 0.01", "left out": "at most 0.05"}
    for row in inside.items:
        assert row["goal"] == wanted.get(str(row["role"]))
        share = row["inside"]
        assert isinstance(share, float)
        limits = {"forget": share >= 0.97, "retain": share <= 0.01, "left out": share <= 0.05}
        assert row["reached"] == limits.get(str(row["role"]))


def test_one_other_skill_is_not_left_out_and_a_cube_is_compared_with_nothing(
    skills: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base = write_tiny(tmp_path / "model", max_position_embeddings=512)
    _, two = only(guard_skill(base, GuardRequest(skills[0], [skills[1]], options=LOOSE)))
    assert "left out" not in {row["role"] for row in two.items}
    _, cube = only(guarded(base, skills, options={"region": "hypercube", "layers": (1,)}))
    assert {(row["region"], row["layers"]) for row in cube.items} == {("hypercube", "1")}
    assert cube.value == cube.layers["held_out_inside"][1]


def test_all_skills_are_read_in_one_pass(
    skills: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*given: Any, **options: Any) -> Any:
        calls.append(len(given[1]))
        return collect(*given, **options)

    monkeypatch.setattr("audit.models.keys.collect", counted)
    guarded(write_tiny(tmp_path / "model", max_position_embeddings=512), skills)
    assert len(calls) == 1
    assert calls[0] > 36 + len(load_background())  # and neutral text


def test_a_region_is_fitted_against_the_background_unless_it_is_switched_off(
    skills: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base = write_tiny(tmp_path / "model", max_position_embeddings=512)
    model = open_model(base)
    background_keys = collect(model, token_ids(model, [*load_background()]), pool="both").rows
    scores = []
    for background in (True, False):
        folder = tmp_path / f"guard-{background}"
        guarded(base, skills, save=folder, options=LOOSE | {"layers": (1,), "background": background})
        guard = read_guard(folder).guard
        assert isinstance(guard, key_space.KeySpaceGuard)
        assert isinstance(guard.region, Vote)
        scores.append(guard.region.score(background_keys).mean())
    assert scores[0] < scores[1]


# ---- neurons


@pytest.mark.parametrize("method", ["neuron-adjust", "prune"])
def test_answers_are_measured_with_other_skills_and_neutral_text_as_controls(
    method: str, skills: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base = write_tiny(tmp_path / "model", max_position_embeddings=512)
    finding, effect = only(guarded(base, skills, method, options={"share": 0.2}))
    rows = {row["skill"]: row for row in effect.items}
    assert effect.value == rows["capitals"]["change"] != 0
    assert effect.value == pytest.approx(rows["capitals"]["after"] - rows["capitals"]["before"])
    assert effect.control is not None
    others = [rows[name]["change"] for name in ("dogs", "months")]
    assert effect.control.value == pytest.approx(np.mean(others))
    perplexity = finding["guard_perplexity"]
    text = rows["neutral text"]
    assert perplexity.base == pytest.approx(np.exp(-text["before"]))
    assert perplexity.value == pytest.approx(np.exp(-text["after"]))
    assert perplexity.details["ratio"] == pytest.approx(np.exp(-text["change"]))
    assert perplexity.details["tokens"] > perplexity.n


def test_skills_without_answers_are_compared_with_neutral_text_or_not_measured(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "model", max_position_embeddings=512)
    capitals = [f"Question: What is the capital of Italy, {n}?" for n in range(12)]
    with_answers = skill_file(tmp_path / "capitals.jsonl", capitals)
    without = tmp_path / "dogs.txt"
    without.write_text("\n".join(f"A puppy is a young dog of {n} days." for n in range(12)))
    _, effect = only(guard_skill(base, GuardRequest(with_answers, [without], "prune")))
    assert effect.control is not None
    assert effect.control.name == "neutral text"
    result = guard_skill(base, GuardRequest(without, [with_answers], "prune"))
    _, effect = only(result)
    assert effect.not_measured == "no held-out query of dogs has an answer that can be scored"
    assert "guard_effect" in {row.metric for row in result.not_checked}
    assert "Not measured" in render_skill(result)


@pytest.mark.parametrize("method", ["neuron-adjust", "prune"])
def test_neurons_are_chosen_in_the_layers_given(method: str, skills: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "model", max_position_embeddings=512)
    result = guarded(base, skills, method, save=tmp_path / "guard", options={"share": 0.2, "layers": (1,)})
    guard: Any = read_guard(tmp_path / "guard").guard
    assert set(guard.neurons[:, 0]) == {1}
    assert len(guard.neurons) == round(0.2 * 40)
    assert result.run.settings["guard"]["settings"]["layers"] == [1]


def test_a_pruned_model_answers_as_the_guarded_one_and_is_compared_with_the_original(
    skills: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base = write_tiny(tmp_path / "model", max_position_embeddings=512)
    result = guarded(base, skills, "prune", save=tmp_path / "guard", save_edited=tmp_path / "edited")
    model = open_model(base)
    with load_guard(model.model, tmp_path / "guard"):
        under_guard = greedy_tokens(model, FORGET_PROMPTS)
    assert greedy_tokens(open_model(tmp_path / "edited"), FORGET_PROMPTS) == under_guard
    finding, effect = only(result)
    assert effect.metric == "guard_effect"
    assert finding["exact_memorisation"].value is not None
    assert finding.verdict != "gated"
    assert result.weights.changed_tensors > 0
    assert result.subjects.unlearned.path == str(tmp_path / "edited")
    assert "capitals" in render_skill(result)
    result.write(tmp_path / "result.json")
    assert verify(tmp_path / "result.json").holds


# ---- what is refused


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("prayer", LOOSE, "no method 'prayer'"),
        ("key-space", {"region": "sphere"}, "no region 'sphere'"),
        ("prune", {"share": 0.0}, "^share is 0"),
        ("prune", {"share": float("nan")}, "^share is nan"),
        ("key-space", {"misses": 0.0}, "^misses is 0"),
        ("key-space", {"misses": 0.02}, r"12 queries of capitals .* so 146 .* or misses of 0\.2 or more"),
        *((method, {"layers": (99,), "misses": 0.3}, "^layers names 99; .* layers 0 to 1") for method in methods()),
        *((method, {"layers": (-1,), "misses": 0.3}, "^layers names -1") for method in methods()),
    ],
)
def test_a_wrong_request_is_refused_before_the_model_is_loaded(
    method: str,
    options: dict[str, Any],
    message: str,
    skills: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("audit.models.opening.load_model", never)
    with pytest.raises(AuditError, match=message):
        guarded(write_tiny(tmp_path / "model"), skills, method, save=tmp_path / "guard", options=options)
    assert not (tmp_path / "guard").exists()


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("slow work began")


@pytest.mark.parametrize("method", sorted(methods()))
def test_experts_are_refused_before_the_model_is_loaded(
    method: str, skills: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.models.opening.load_model", never)
    with pytest.raises(AuditError, match="spread over experts"):
        guarded(write_tiny(tmp_path / "mixtral", "mixtral"), skills, method)


@pytest.mark.parametrize("method", ["neuron-adjust", "prune"])
def test_a_model_whose_answers_cannot_be_scored_is_refused_before_it_is_run(
    method: str, skills: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_neurons, "read_activity", never)
    with pytest.raises(AuditError, match=r"ALiBi.* Use --method key-space"):
        guarded(write_tiny(tmp_path / "bloom", "bloom"), skills, method)


def test_only_pruning_edits_a_model(skills: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="edits no weight"):
        guarded(tmp_path / "no model", skills, "neuron-adjust", save_edited=tmp_path / "x")


def test_a_folder_in_use_is_refused_before_the_work(skills: tuple[Path, Path, Path], tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.txt").write_text("mine")
    for method, target in (("key-space", {"save": used}), ("prune", {"save_edited": used})):
        with pytest.raises(AuditError, match="left alone"):
            guarded(tmp_path / "no model", skills, method, **target)
    assert (used / "thesis.txt").read_text() == "mine"


def test_skills_that_share_a_query_or_a_name_are_refused(skills: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="12 queries of capitals are among those to forget"):
        guard_skill(tmp_path, GuardRequest(skills[0], [skills[1], skills[0]]))
    (tmp_path / "other").mkdir()
    again = skill_file(tmp_path / "other" / "dogs.jsonl", [f"{n} cats" for n in range(12)])
    with pytest.raises(AuditError, match=r"two of the skills are called 'dogs'"):
        guard_skill(tmp_path, GuardRequest(skills[0], [skills[1], again]))


@pytest.mark.parametrize("prompts", [["One.", "Two."], ["The same!", "the same"] * 10])
def test_too_few_different_queries_are_refused(
    prompts: list[str], skills: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    few = skill_file(tmp_path / "few.jsonl", prompts)
    with pytest.raises(AuditError, match=r"few has \d different queries; 6 are needed"):
        guard_skill(tmp_path, GuardRequest(few, [skills[1]]))


def test_a_limit_below_the_fewest_queries_is_refused(skills: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="capitals has 3 different queries"):
        guarded(tmp_path, skills, context=RunContext(Settings(limit=3)))


def test_prompts_beyond_the_context_are_left_out_counted_and_never_attacked_with_others_wordings(
    skills: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base = write_tiny(tmp_path / "model", max_position_embeddings=64)
    queries = [{"prompt": "capital " * 80, "answer": "Rome"}] * 3
    queries += [
        {"prompt": f"The capital of Italy {n}?", "answer": "Rome", "paraphrases": [f"Paraphrase {n}"]}
        for n in range(12)
    ]
    skills[0].write_text("\n".join(json.dumps(query) for query in queries))
    result = guarded(base, skills, "prune")
    assert [part["beyond_the_context"] for part in result.run.settings["parts"]] == [3, 0, 0]
    assert "3 prompts of capitals exceed the model's context" in render_skill(result)
    skill = tokenize_skill(read_skills(skills)[0], open_model(base), seed=0)
    for query in held_out_queries([skill], forget=True):
        assert query.paraphrases == (f"Paraphrase {query.prompt.split()[4][:-1]}",)


def test_skills_all_of_whose_prompts_are_beyond_the_context_are_refused(
    skills: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base = write_tiny(tmp_path / "model", max_position_embeddings=4)
    with pytest.raises(AuditError, match="capitals has 0 different queries shorter than the model's 4 tokens"):
        guarded(base, skills)
