"""Text from foreign files: in reports, messages, file names, concept files and prompts."""

from __future__ import annotations

import json
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from audit.checkpoint import open_checkpoint
from audit.errors import AuditError
from audit.questions.items import Encoder
from audit.questions.topics import concept_items, load_concepts
from audit.result import write_text
from concepts.concept import load_concept
from concepts.files import slug
from reports.html import render
from tests.bad_input.samples import refusal
from tests.sample_result import hostile
from tests.tiny import tokenizer


class Page(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_hostile_text_stays_text_in_the_report() -> None:
    elements = Page(render(hostile())).elements
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert not [tag for tag, attributes in elements if tag in ("img", "iframe") or "src" in attributes]
    assert sum(tag == "script" for tag, _ in elements) == 2


def test_invisible_and_broken_characters_are_shown_as_escapes(tmp_path: Path) -> None:
    page = render(hostile())
    assert not set("\u202e\u2066\u200b\ufeff\x00\x1b\ud800") & set(page)
    with pytest.raises(UnicodeEncodeError):
        (tmp_path / "naive.html").write_text("\ud800", encoding="utf-8")
    write_text(tmp_path / "page.html", "\ud800")
    assert (tmp_path / "page.html").read_text() == "\\ud800"


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\u202eb", "a\0b", "\ud800"])
def test_a_tensor_name_with_control_characters_is_refused_in_escapes(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "model.safetensors", tmp_path / "model.pt"):
        if path.suffix == ".pt":
            torch.save({name: torch.zeros(1)}, path)
        else:
            header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
            path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        message = refusal(open_checkpoint, path)
        assert "is not a valid tensor name" in message
        assert message.isprintable()


def test_a_message_of_a_megabyte_is_cut(tmp_path: Path) -> None:
    error = AuditError("x" * 10**6, where="a\tb")
    assert len(str(error)) < 3000
    assert error.where == "a\\tb"


def test_concept_names_that_are_not_file_names_are_refused_or_made_into_one(tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "x" * 10_000, "東京", "a\\b:c"):
        assert Path(slug(name)).name == slug(name)
        assert 0 < len(slug(name)) <= 60
    assert "no concept" in refusal(load_concepts, [""])
    assert "cannot be read" in refusal(load_concepts, ["a\0b.toml"])
    assert "cannot be read" in refusal(load_concepts, ["x" * 500 + ".toml"])
    assert "given twice" in refusal(load_concepts, ["italy", "italy"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'title = "R"\nseeds = ["r"]\ncolour = 3\n', "field colour"),
        (b'title = "R"\nseeds = "r"\n', "field seeds"),
        (b'title = "R"\nseeds = oops\n', "line 2"),
        (b'title = "R"\n# caf\xe9\n', "line 2 is not UTF-8"),
        ('title = "R"'.encode("utf-16"), "UTF-16"),
        (b"seeds = " + b"[" * 100_000, "is not TOML"),
        (b"seeds = " + b"9" * 100_000, "is not TOML"),
        (None, "16,777,216 bytes"),
    ],
    ids=["schema", "type", "syntax", "latin-1", "UTF-16", "nesting", "number", "1 GB line"],
)
def test_a_concept_file_that_cannot_be_used_is_refused_with_its_path(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    path = tmp_path / "rivers.toml"
    with path.open("wb") as stream:
        stream.write(content) if content is not None else stream.truncate(10**9)
    message = refusal(load_concepts, [str(path)])
    assert str(path) in message
    assert expected in message


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "rivers.toml").write_bytes(b'\xef\xbb\xbftitle = "R"\nseeds = ["r"]\n')
    assert load_concept(str(tmp_path / "rivers.toml")).title == "R"


def test_a_prompt_longer_than_the_context_is_refused_and_counted(tmp_path: Path) -> None:
    question = f'[[questions]]\nquestion = "Which {"very " * 300}long river?"\nanswer = "Po"\n'
    (tmp_path / "rivers.toml").write_text(f'title = "R"\nseeds = ["r"]\n{question}')
    items = concept_items(load_concept(str(tmp_path / "rivers.toml")), Encoder(tokenizer(), context=256), limit=2)
    (reason,) = (reason for name, reason in items.skipped.items() if name.startswith("target/0"))
    assert "do not fit into the model's context of 256" in reason
    assert not [item for item in items.items if item.kind == "target"]
