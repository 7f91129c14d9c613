"""The Python blocks of docs/python.md run as they stand, one after the other, on tiny models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from audit.errors import AuditError
from audit.knowledge import klom
from tests.tiny import write_tiny

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
PEOPLE = {"Ada": ("Rome", "baker"), "Ben": ("Paris", "farmer"), "Cleo": ("Milan", "nurse"), "Dan": ("Lyon", "smith")}
OTHERS = {"young dog": "puppy", "young cat": "kitten", "author of Hamlet": "Shakespeare", "short month": "February"}


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the blocks name, with three models on each side."""
    monkeypatch.chdir(tmp_path)
    asked = (("In which town does {} live?", "town"), ("What is the work of {}?", "work"))
    people = [
        {"question": form.format(name), "answer": answer, "type": type_, "subject": name}
        for name, answers in PEOPLE.items()
        for (form, type_), answer in zip(asked, answers, strict=True)
    ]
    write_rows(tmp_path / "people.jsonl", people)
    write_rows(
        tmp_path / "others.jsonl", [{"question": f"What is a {what}?", "answer": name} for what, name in OTHERS.items()]
    )
    write_tiny(tmp_path / "base")
    for seed in range(3):
        write_tiny(tmp_path / "unlearned" / str(seed), seed=seed)
        write_tiny(tmp_path / "retrained" / str(seed), seed=seed + 3)
    return tmp_path


def test_three_models_on_a_side_are_too_few_for_the_first_block(folder: Path) -> None:
    with pytest.raises(AuditError, match="KLoM needs 50 models on each side, not 3"):
        exec(BLOCKS[0], {})


def test_every_block_runs_and_prints_its_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(klom, "FEWEST", 3)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, names)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:4]] == ["0.25", "0.5", "0.75"]
    assert float(printed[4]) == pytest.approx(99.5, abs=0.1)
    found = names["found"]
    assert found.contributions.sum().item() == pytest.approx(found.effect, rel=0.01)
    assert len(BLOCKS) == 4
