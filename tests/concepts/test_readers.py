"""Readers of data sets: one file is one layout, and which reader reads a file does not depend on their order."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import concepts.readers.concepts
import concepts.readers.skills
from concepts.concept import ConceptReader, load_concept
from concepts.files import ConceptFileError
from concepts.plugins import PluginError, discover
from concepts.readers import reader_for
from concepts.skill import SkillReader, load_skill

TABLE_CONCEPT = """
from concepts.concept import parse_concept

TITLE = "table"
LAYOUT = "FILE.table"
PREFERRED_TO = frozenset()

def recognises(path):
    return path.suffix == ".table"

def read(path):
    questions = [dict(zip(("question", "answer"), line.split(","))) for line in path.read_text().splitlines()]
    return parse_concept({"name": path.stem, "title": path.stem, "questions": questions}, str(path))
"""
CSV_SKILL = """
from concepts.skill import parse_skill

TITLE = "table"
LAYOUT = "FILE.csv"
PREFERRED_TO = frozenset({"plain_text"})

def recognises(path):
    return path.suffix == ".csv"

def read(path):
    rows = [line.split(",") for line in path.read_text().splitlines()]
    return parse_skill({"queries": [{"prompt": prompt, "answer": answer} for prompt, answer in rows]}, path)
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules are readers too, of concepts in ``concepts/`` and of skills in ``skills/``."""
    for package in (concepts.readers.concepts, concepts.readers.skills):
        folder = tmp_path / package.__name__.rpartition(".")[2]
        folder.mkdir()
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield tmp_path
    for name in [name for name in sys.modules if name.endswith((".table", ".other"))]:
        del sys.modules[name]


def test_one_new_file_is_a_new_layout_of_concepts(added: Path, tmp_path: Path) -> None:
    (added / "concepts" / "table.py").write_text(TABLE_CONCEPT)
    (tmp_path / "rivers.table").write_text("Which river flows through Rome?,Tiber\n")
    concept = load_concept(str(tmp_path / "rivers.table"))
    assert (concept.title, concept.questions[0].answer) == ("rivers", "Tiber")
    assert len(concept.unrelated) >= 50
    with pytest.raises(ConceptFileError, match=r"table \(FILE\.table\)"):
        load_concept("no-such-concept")


def test_one_new_file_is_a_new_layout_of_skills(added: Path, tmp_path: Path) -> None:
    (tmp_path / "sums.csv").write_text("1+1,2\n")
    assert load_skill(tmp_path / "sums.csv").queries[0].prompt == "1+1,2", "plain text has any ending"
    (added / "skills" / "table.py").write_text(CSV_SKILL)
    importlib.invalidate_caches()  # the folder was listed a moment ago
    assert load_skill(tmp_path / "sums.csv").queries[0].answer == "2"


def test_a_file_of_two_layouts_is_an_error_that_names_both(added: Path, tmp_path: Path) -> None:
    (added / "concepts" / "table.py").write_text(TABLE_CONCEPT)
    (added / "concepts" / "other.py").write_text(TABLE_CONCEPT.replace('"table"', '"other table"'))
    (tmp_path / "rivers.table").write_text("Which river flows through Rome?,Tiber\n")
    with pytest.raises(
        ConceptFileError, match=r"several layouts at once: other table \(FILE\.table\); table \(FILE\.table\)"
    ):
        load_concept(str(tmp_path / "rivers.table"))


@pytest.mark.parametrize("names", [("table", "other"), ("other", "table")])
def test_the_preferred_reader_is_taken_whatever_their_names_are(
    added: Path, tmp_path: Path, names: tuple[str, str]
) -> None:
    general, specific = names
    (added / "concepts" / f"{general}.py").write_text(TABLE_CONCEPT)
    preferring = TABLE_CONCEPT.replace("frozenset()", f"frozenset({{{general!r}}})")
    (added / "concepts" / f"{specific}.py").write_text(preferring.replace('"title": path.stem', '"title": "specific"'))
    (tmp_path / "rivers.table").write_text("Which river flows through Rome?,Tiber\n")
    assert load_concept(str(tmp_path / "rivers.table")).title == "specific"


def test_readers_that_are_each_preferred_to_the_other_are_an_error(added: Path, tmp_path: Path) -> None:
    (added / "concepts" / "table.py").write_text(TABLE_CONCEPT.replace("frozenset()", "frozenset({'other'})"))
    (added / "concepts" / "other.py").write_text(TABLE_CONCEPT.replace("frozenset()", "frozenset({'table'})"))
    with pytest.raises(ConceptFileError, match="several layouts at once"):
        load_concept(str(tmp_path / "rivers.table"))


def test_a_preference_to_a_reader_that_does_not_exist_is_an_error(added: Path) -> None:
    (added / "concepts" / "table.py").write_text(TABLE_CONCEPT.replace("frozenset()", "frozenset({'tomll'})"))
    with pytest.raises(PluginError, match="the reader table is preferred to 'tomll'"):
        load_concept("rivers.table")


def test_a_reader_without_a_name_of_the_contract_is_an_error(added: Path) -> None:
    (added / "skills" / "table.py").write_text(CSV_SKILL.replace("LAYOUT", "SHAPE"))
    with pytest.raises(PluginError, match=r"skills\.table does not define LAYOUT, .* SkillReader"):
        load_skill("sums.csv")


CONCEPT_FILES = {
    "toml": ("c.toml", 'title = "R"\nseeds = ["r"]\n'),
    "article": ("c.txt", "A text."),
    "conceptvectors": ("c.json", "[]"),
    "jsonl": ("c.jsonl", ""),
    "csv": ("c.csv", ""),
}
SKILL_FILES: dict[str, tuple[str, Any]] = {
    "toml": ("s.toml", '[[queries]]\nprompt = "a"\n'),
    "plain_text": ("s.txt", "a\nb\n"),
    "queries": ("s.jsonl", {"prompt": "a"}),
    "gsm8k": ("s.jsonl", {"question": "a", "answer": "#### 1"}),
    "humaneval": ("s.jsonl", {"prompt": "a", "test": "b", "entry_point": "c"}),
    "mbpp": ("s.jsonl", {"text": "a", "code": "b", "test_list": []}),
    "squad": ("s.json", {"data": []}),
}


def test_every_shipped_layout_is_recognised_by_its_own_reader(tmp_path: Path) -> None:
    for package, contract, files in (
        ("concepts.readers.concepts", ConceptReader, CONCEPT_FILES),
        ("concepts.readers.skills", SkillReader, SKILL_FILES),
    ):
        readers = discover(package, contract)
        assert readers.keys() == files.keys()
        for name, (file, content) in files.items():
            path = tmp_path / file
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            assert reader_for(path, readers) is readers[name]


def test_an_entry_of_conceptvectors_may_be_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text('[{"Concept": "setup.toml"}]')
    with pytest.raises(ConceptFileError, match=r"the entry 'setup\.toml' does not have the fields of ConceptVectors"):
        load_concept(f"{tmp_path / 'dev.json'}#setup.toml")


def test_a_json_file_is_told_from_conceptvectors_by_its_first_entry(tmp_path: Path) -> None:
    readers = discover("concepts.readers.concepts", ConceptReader)
    for content, name in (
        ('[{"Concept": "Italy", "QA": []}]', "conceptvectors"),
        ('[{"question": "a", "answer": "b"}]', "jsonl"),
        ('{"question": "a"}\n{', "jsonl"),
        ("{", "conceptvectors"),
    ):
        (tmp_path / "dev.json").write_text(content)
        assert reader_for(tmp_path / "dev.json", readers) is readers[name]


def test_fields_of_two_published_skills_are_ambiguous(tmp_path: Path) -> None:
    (tmp_path / "both.jsonl").write_text(
        json.dumps({"question": "", "answer": "", "text": "", "code": "", "test_list": []})
    )
    with pytest.raises(ConceptFileError, match=r"several layouts at once: GSM8K .*; MBPP"):
        load_skill(tmp_path / "both.jsonl")
