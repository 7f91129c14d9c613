"""The registry of plugins: what a file of a folder must define, and how it fails where it does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from concepts.plugins import PluginError, discover

GREETER = "TITLE = 'greets'\n\ndef greet(name, *, loud):\n    return name.upper() if loud else name\n"


class Titled(Protocol):
    TITLE: str


class Greeter(Titled, Protocol):
    def greet(self, name: str, *, loud: bool) -> str: ...


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of plugins, importable as ``greeters``."""
    path = tmp_path / "greeters"
    path.mkdir()
    (path / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    for name in [name for name in sys.modules if name.split(".")[0] == "greeters"]:
        del sys.modules[name]


def test_every_file_of_the_folder_is_a_plugin_by_its_name(folder: Path) -> None:
    for name in ("world", "hello"):
        (folder / f"{name}.py").write_text(GREETER)
    plugins = discover("greeters", Greeter)
    assert list(plugins) == ["hello", "world"]
    assert plugins["hello"].greet("you", loud=True) == "YOU"


def test_a_file_whose_name_begins_with_an_underscore_is_not_a_plugin(folder: Path) -> None:
    (folder / "_shared.py").write_text("raise RuntimeError('imported')\n")
    (folder / "hello.py").write_text(GREETER)
    assert list(discover("greeters", Greeter)) == ["hello"]


def test_an_empty_folder_has_no_plugins(folder: Path) -> None:
    assert discover("greeters", Greeter) == {}


@pytest.mark.parametrize("name", ["TITLE", "greet"])
def test_a_missing_name_fails_with_the_file_and_the_contract(folder: Path, name: str) -> None:
    (folder / "hello.py").write_text(GREETER)
    (folder / "broken.py").write_text(GREETER.replace(name, "other"))
    with pytest.raises(PluginError, match=rf"greeters\.broken does not define {name}, .* contract Greeter"):
        discover("greeters", Greeter)


def test_a_function_name_that_cannot_be_called_fails(folder: Path) -> None:
    (folder / "broken.py").write_text("TITLE = 'x'\ngreet = 3\n")
    with pytest.raises(PluginError, match=r"greeters\.broken\.greet is not a function; the contract Greeter"):
        discover("greeters", Greeter)


@pytest.mark.parametrize("parameters", ["name", "*, loud", "name, loud, much", "", "name, volume"])
def test_a_function_that_does_not_take_the_contracts_arguments_fails(folder: Path, parameters: str) -> None:
    (folder / "broken.py").write_text(f"TITLE = 'x'\ndef greet({parameters}): ...\n")
    with pytest.raises(PluginError, match=r"greeters\.broken\.greet does not take \(name, loud=\)"):
        discover("greeters", Greeter)


@pytest.mark.parametrize("parameters", ["who, *, loud", "name, loud", "name, *, loud, much=1", "*names, **options"])
def test_a_function_may_take_more_than_the_contract_gives(folder: Path, parameters: str) -> None:
    (folder / "hello.py").write_text(f"TITLE = 'x'\ndef greet({parameters}): ...\n")
    assert list(discover("greeters", Greeter)) == ["hello"]


def test_a_file_that_cannot_be_imported_fails(folder: Path) -> None:
    (folder / "broken.py").write_text("import no_such_module\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        discover("greeters", Greeter)
