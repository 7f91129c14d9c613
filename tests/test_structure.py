"""The structure of the code, read from its import statements: which way imports go, circles, size of folders, hooks."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from audit.units import AFTER_READING

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("audit", "concepts", "reports")
MAY_IMPORT = {
    "cli": {"audit", "concepts", "reports"},
    "reports": {"reports", "audit.result", "audit.errors"},
    "audit": {"audit", "concepts"},
    "concepts": {"concepts"},
}
LEVELS = (
    {"calibration", "errors", "plugins", "progress", "request", "result", "settings", "statistics", "thresholds"},
    {"architectures", "checkpoint"},
    {"models"},
    {"guards", "interventions", "knowledge", "lenses", "patching", "questions", "unlearning", "vectors", "weights"},
    {"attacks", "metrics"},
    {"evidence", "kept_readings", "topic_reader", "units", "verdict"},
    {"commands"},
)
"""What lies in ``audit/``, lowest first: a module imports from its own level and from those below."""
FOLDER_SIZE = 16
GROWING = {Path("audit/attacks"), Path("audit/unlearning/methods")}
"""Folders of which each file is one entry of a list that users add to."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {
    module_name(path): path
    for path in [ROOT / "cli.py", *(file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))]
}


def imported_names(source: str, package: str = "") -> set[str]:
    """Dotted names of all imports, also those inside functions and for type checkers only.

    Args:
        package: where the source lies, for relative imports.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def imported_modules(name: str) -> set[str]:
    """The project's modules that the module ``name`` imports."""
    path = SOURCES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names = imported_names(path.read_text(encoding="utf-8"), package)
    candidates = {full if full in SOURCES else full.rpartition(".")[0] for full in names}
    return {module for module in candidates if module in SOURCES} - {name}


IMPORTS = {name: imported_modules(name) for name in SOURCES}


def forbidden(package: str, names: Iterable[str]) -> set[str]:
    """Those of the imported ``names`` that ``package`` may not import."""
    ours = {name for name in names if name.split(".")[0] in MAY_IMPORT}
    return {name for name in ours if not any(f"{name}.".startswith(f"{allowed}.") for allowed in MAY_IMPORT[package])}


def level(module: str) -> int:
    """The index in ``LEVELS`` of a module of ``audit``."""
    (index,) = (index for index, names in enumerate(LEVELS) if module.split(".")[1] in names)
    return index


def upward(imports: dict[str, set[str]]) -> set[str]:
    """Imports inside ``audit`` from a higher level, as sentences."""
    return {
        f"{module} imports {target}"
        for module, targets in imports.items()
        for target in targets
        if module.startswith("audit.") and target.startswith("audit.") and level(target) > level(module)
    }


def circles(imports: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """Groups of modules that import each other, directly or through others."""
    return {
        tuple(sorted(other for other in reach if module in reachable(imports, other)))
        for module in imports
        if module in (reach := reachable(imports, module))
    }


def reachable(imports: dict[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = imports[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


@pytest.mark.parametrize("name", SOURCES)
def test_imports_between_the_packages_go_one_way(name: str) -> None:
    assert forbidden(name.split(".")[0], imported_names(SOURCES[name].read_text(encoding="utf-8"))) == set()


def test_a_wrong_import_would_be_noticed() -> None:
    inside = imported_names("def f():\n    from audit.checkpoint.pair import ModelPair")
    assert forbidden("concepts", inside) == {"audit.checkpoint.pair.ModelPair"}
    assert forbidden("reports", imported_names("from audit.weights.scan import scan")) == {"audit.weights.scan.scan"}
    assert imported_names("from .records import Global\nfrom ..source import Source", "audit.checkpoint.formats") == {
        "audit.checkpoint.formats.records.Global",
        "audit.checkpoint.source.Source",
    }


def test_every_part_of_audit_has_a_level() -> None:
    parts = {name.split(".")[1] for name in SOURCES if name.startswith("audit.")}
    assert parts - set().union(*LEVELS) == set()


def test_imports_inside_audit_go_downwards() -> None:
    assert upward(IMPORTS) == set()


def test_no_unit_depends_on_what_is_made_of_readings_later() -> None:
    """Else a change there would leave old units in use."""
    reading = [name for name in SOURCES if name == "audit.topic_reader" or name.startswith("audit.attacks.")]
    reached = set(reading).union(*(reachable(IMPORTS, name) for name in reading))
    later = {name for name, path in SOURCES.items() if path.relative_to(ROOT).as_posix().startswith(AFTER_READING)}
    assert len(later) > len(AFTER_READING)
    assert reached & later == set()


def test_an_upward_import_would_be_noticed() -> None:
    imports = {"audit.metrics.runner": {"audit.commands.compare", "audit.models.scoring"}, "audit.evidence": set()}
    assert upward(imports) == {"audit.metrics.runner imports audit.commands.compare"}


def test_no_modules_import_each_other() -> None:
    assert circles(IMPORTS) == set()


def test_a_circle_would_be_noticed() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {("b", "c")}


def test_folders_stay_small_enough_to_look_through() -> None:
    modules = Counter(path.parent.relative_to(ROOT) for path in SOURCES.values() if path.name != "__init__.py")
    large = {str(folder): count for folder, count in modules.items() if count > FOLDER_SIZE and folder not in GROWING}
    assert large == {}


def test_hooks_are_registered_in_one_module() -> None:
    registers = re.compile(r"\bregister_\w*hook")
    users = {name for name, path in SOURCES.items() if registers.search(path.read_text(encoding="utf-8"))}
    assert users == {"audit.models.hooks"}


def test_only_loading_and_its_cache_import_transformers_at_run_time() -> None:
    for_types = re.compile(r"^if TYPE_CHECKING:\n(?:    .*\n|\n)*", re.MULTILINE)
    sources = {name: for_types.sub("", path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}
    libraries = ("transformers", "transformer_lens")
    users = {
        name
        for name, source in sources.items()
        if any(full.split(".")[0] in libraries for full in imported_names(source))
    }
    assert users == {"audit.models.key_value_cache", "audit.models.loading"}


def test_the_forbidden_word_is_nowhere_in_the_product() -> None:
    texts = [*SOURCES.values(), *(ROOT / "reports").rglob("*.html"), *(ROOT / "concepts").rglob("*.toml")]
    assert [str(path) for path in texts if "compliant" in path.read_text(encoding="utf-8").lower()] == []
