"""The contract of a guard: one new file is a method of the command line, saved, loaded and attacked like the others."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from audit.errors import AuditError
from audit.guards import load_guard, methods
from audit.guards.methods import options_for
from audit.plugins import PluginError
from audit.result import AuditResult
from tests.helpers import FORGET_PROMPTS, greedy_tokens, open_model
from tests.tiny import write_tiny

MUTE = '''
"""Mute: a layer's FFN writes nothing."""

from contextlib import ExitStack
from dataclasses import dataclass

from audit.guards.measurements import measure_answers
from audit.guards.methods import FittedGuard, Guard, GuardOptions, GuardState
from audit.models.hooks import on_inputs


@dataclass(frozen=True)
class MuteOptions(GuardOptions):
    which: int = 0


@dataclass(frozen=True)
class MuteGuard(Guard):
    layer: int

    def apply(self, model, sites) -> ExitStack:
        return on_inputs(model, {sites.out[self.layer]: lambda module, inputs: (inputs[0] * 0, *inputs[1:])})

    def matches(self, sites) -> bool:
        return self.layer < len(sites.out)

    def save(self) -> GuardState:
        return GuardState({"layer": self.layer}, {})

    @classmethod
    def load(cls, state: GuardState) -> "MuteGuard":
        return cls(state.settings["layer"])


TITLE = "Mute a layer"
OPTIONS = MuteOptions
GUARD = MuteGuard


def fit(model, skills, options, seed, progress) -> FittedGuard:
    guard = MuteGuard(options.which)
    return FittedGuard(guard, measure_answers(model, skills, guard, seed, progress))
'''


SOME = ("m", "--forget", "f", "--retain", "r")
"""Arguments that are not reached."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files are methods too."""
    added = tmp_path / "methods"
    added.mkdir()
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(added)])
    before = set(sys.modules)
    methods.methods.cache_clear()
    yield added
    methods.methods.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith(methods.__name__):
            del sys.modules[name]


def run(*arguments: object) -> AuditResult:
    shown = CliRunner().invoke(cli.app, [*map(str, arguments), "--json", "--quiet"])
    assert shown.exit_code == 0, shown.output
    return AuditResult.model_validate(json.loads(shown.stdout))


def write_skill(path: Path, text: str) -> Path:
    rows = [{"prompt": text.format(number), "answer": f"Number {number}"} for number in range(20)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_one_new_file_is_a_method_that_is_fitted_saved_loaded_and_attacked(folder: Path, tmp_path: Path) -> None:
    (folder / "mute_layer.py").write_text(MUTE)
    base, out = write_tiny(tmp_path / "model", max_position_embeddings=512), tmp_path / "out"
    forget = write_skill(tmp_path / "capitals.jsonl", "What is the capital of Italy, {}?")
    retain = write_skill(tmp_path / "dogs.jsonl", "A puppy is a young dog of {} days.")
    given = ("--forget", forget, "--retain", retain, "--method", "mute-layer", "--option", "which=1")
    result = run("skill", base, *given, "--save", tmp_path / "guard", "--output", out)
    assert result.findings[0].verdict == "gated"
    assert result.run.settings["fit"]["which"] == 1
    assert result.findings[0]["guard_effect"].value is not None
    assert "Right answers with the guard on" in (out / "report.html").read_text()
    document = json.loads((tmp_path / "guard" / "guard.json").read_text())
    assert (document["method"], document["settings"]) == ("mute-layer", {"layer": 1})
    model = open_model(base)
    plain = greedy_tokens(model, FORGET_PROMPTS)
    with load_guard(model.model, tmp_path / "guard"):
        assert greedy_tokens(model, FORGET_PROMPTS) != plain
    assert greedy_tokens(model, FORGET_PROMPTS) == plain
    attacked = run("compare", base, base, "--guard", tmp_path / "guard", "--output", out)
    assert attacked.findings[0].verdict == "gated"
    assert attacked.findings[0]["gate_recall"].value is not None
    assert "Queries that the guard stops" in (out / "report.html").read_text()
    plan = CliRunner().invoke(cli.app, ["compare", str(base), str(base), "--guard", str(tmp_path / "guard"), "--plan"])
    assert "guard is attacked" in " ".join(plan.output.split())
    assert "mute-layer" in CliRunner().invoke(cli.app, ["skill", "--method", "none", *SOME]).output


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('TITLE = "Mute a layer"', "", "mute does not define TITLE"),
        ("def fit", "def fitted", "mute does not define fit"),
        ("OPTIONS = MuteOptions", "OPTIONS = dict", "mute.OPTIONS must be a dataclass that extends GuardOptions"),
        ("def matches", "def fits", "mute.GUARD must extend Guard and define its abstract methods"),
    ],
)
def test_a_file_that_breaks_the_contract_fails_when_the_folder_is_read(
    before: str, after: str, message: str, folder: Path
) -> None:
    assert before in MUTE
    (folder / "mute.py").write_text(MUTE.replace(before, after))
    with pytest.raises(PluginError, match=message):
        methods.methods()


def test_options_are_the_methods_own_and_others_are_checked_and_ignored() -> None:
    options = options_for("prune", {"share": "0.5", "region": "hypercube", "layers": (1,)})
    assert options == methods.methods()["prune"].OPTIONS((1,), 0.5)  # type: ignore[call-arg]
    with pytest.raises(AuditError, match="no region 'sphere'"):
        options_for("prune", {"region": "sphere"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"colour": "red"}, "no option 'colour'. prune has layers, share"),
        ({"share": "much"}, "option 'share' of .*: Input should be a valid number"),
        ({"layers": "all"}, "option 'layers' of .*: Input should be a valid tuple"),
    ],
)
def test_an_option_that_does_not_exist_or_has_the_wrong_type_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        options_for("prune", given)


def test_the_command_line_has_the_methods_own_defaults() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(cli.skill).parameters.items()}
    for method in methods.methods():
        options = vars(options_for(method, {}))
        layers = options.pop("layers")
        assert (layers, defaults["layers"]) == ((), "")
        flags = {name: value for name, value in options.items() if name in defaults}
        assert flags == {name: defaults[name] for name in flags}


def test_every_method_is_in_the_help_and_in_the_documentation() -> None:
    shown = CliRunner().invoke(cli.app, ["skill", "--help"]).output
    documented = (Path(cli.__file__).parent / "docs" / "skills.md").read_text()
    for method in methods.methods():
        assert method in shown
        assert f"| `{method}` |" in documented


def test_a_named_option_without_a_value_is_a_usage_error() -> None:
    line = ["skill", "m", "--forget", "f", "--retain", "r", "--option", "share"]
    shown = CliRunner().invoke(cli.app, line)
    assert shown.exit_code == 2
    assert "'share' is not NAME=VALUE" in shown.output
