"""The documentation names every command and option, and every page it links exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_option_is_documented(name: str) -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert f"## audit {name}" in text
    section = text.split(f"## audit {name}")[1].split("\n## ")[0]
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")}
    assert {option for option in options if f"`{option}" not in section} == set()


def test_no_option_is_documented_that_does_not_exist() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        section = text.split(f"## audit {name}")[1].split("\n## ")[0]
        known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        assert set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE)) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


EXTENSIONS = {
    "docs/evidence.md": (
        "audit/metrics/*/*.py",
        "audit/questions/kinds/*.py",
        "audit/attacks/*.py",
        "concepts/jailbreaks/*.toml",
    ),
    "docs/commands.md": (
        "audit/interventions/*.py",
        "audit/unlearning/methods/*.py",
        "concepts/readers/*/*.py",
        "audit/architectures/*.toml",
    ),
    "docs/skills.md": ("audit/guards/methods/*.py",),
}
"""Page -> folders whose files it names, each by its file name in backquotes."""


def undocumented(root: Path) -> list[str]:
    """Names of the files that add a metric, a kind of question, an attack ... and that their page does not name."""
    missing = []
    for page, patterns in EXTENSIONS.items():
        text = (root / page).read_text(encoding="utf-8")
        files = [file for pattern in patterns for file in sorted(root.glob(pattern)) if not file.name.startswith("_")]
        names = [file.stem for file in files]
        missing += [
            name
            for name in names
            if not {f"`{name}`", f"`{name.replace('_', '-')}`"} & set(re.findall(r"`[^`]*`", text))
        ]
    return missing


def test_everything_that_is_one_file_is_named_in_the_documentation() -> None:
    assert undocumented(ROOT) == []
