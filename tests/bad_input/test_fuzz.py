"""Any bytes at all: headers, indexes, concept files and pickles are read or refused, quickly and within their size."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from audit.checkpoint import open_checkpoint
from audit.errors import AuditError
from audit.questions.topics import load_concepts
from concepts.concept import load_concept
from tests.checkpoint.shards import INDEX, save_shards
from tests.concepts.test_concept import ENTRY, GROUP, MINIMAL, QUESTION

SLOWEST = 5_000  # milliseconds for one input
quick = settings(deadline=SLOWEST, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
spawning = settings(quick, max_examples=80)
"""For inputs that take a process each."""

NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 8, 40, -1, 2**31, 2**40, 2**62, 2**63, 2**64, 10**400, 10**4290])
SCALARS = (
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=6) | st.sampled_from(["F32", "a\n", "\0"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def changed(whole: bytes) -> st.SearchStrategy[bytes]:
    """``whole`` with a few stretches replaced, inserted or taken out."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        content = whole
        for place, length, new in edits:
            content = content[:place] + new + content[place + length :]
        return content

    edit = st.tuples(st.integers(0, len(whole)), st.integers(0, 12), st.binary(max_size=6))
    return st.lists(edit, min_size=1, max_size=4).map(apply)


def read_or_refused(read: Callable[[Path], None], path: Path) -> bool:
    """Whether ``read`` accepts what lies in ``path``; if not, it is refused in one printable line that names it."""
    message = None
    try:
        read(path)
    except AuditError as error:
        message = str(error)
    assert message is None or (message.isprintable() and str(path) in message)
    return message is None


def read_tensors(path: Path) -> None:
    """Open the checkpoint and read each tensor, whose bytes must lie inside the file."""
    checkpoint = open_checkpoint(path)
    for name, info in checkpoint.tensors.items():
        assert info.nbytes <= path.stat().st_size
        assert tuple(checkpoint.tensor(name).shape) == info.shape


def check(path: Path, content: bytes) -> bool:
    """``read_or_refused`` for a file of ``content``; memory must follow its size."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        accepted = read_or_refused(read_tensors, path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**21 + 100 * len(content)
    return accepted


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# ---- safetensors

WHOLE = save({"a": torch.arange(4.0), "b": torch.ones(2, 3)}, metadata={"format": "pt"})
SHAPES = st.lists(NUMBERS, max_size=4) | VALUES
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "I8", "BOOL", "F8_E4M3"]) | SCALARS,
        "shape": SHAPES,
        "data_offsets": st.just([0, 4]) | SHAPES,
    }
)


@quick
@example(content=WHOLE)
@given(content=changed(WHOLE))
def test_changed_safetensors_bytes_are_read_or_refused(folder: Path, content: bytes) -> None:
    accepted = check(folder / "changed.safetensors", content)
    assert accepted or content != WHOLE


@quick
@example(header={"a": {"dtype": "F32", "shape": [10**4290] * 2, "data_offsets": [0, 4]}}, length=None, data=bytes(4))
@example(header={"a": {"dtype": "F32", "shape": [0, 2**62, 4], "data_offsets": [0, 0]}}, length=None, data=b"")
@given(
    header=st.dictionaries(st.text(max_size=4), ENTRIES | VALUES, max_size=4) | VALUES,
    length=st.just(None) | NUMBERS.filter(lambda number: 0 <= number < 2**64),
    data=st.binary(max_size=40),
)
def test_any_safetensors_header_is_read_or_refused(folder: Path, header: Any, length: int | None, data: bytes) -> None:
    raw = json.dumps(header).encode()
    content = struct.pack("<Q", len(raw) if length is None else length) + raw + data
    accepted = check(folder / "any.safetensors", content)
    assert not accepted or length is None or length == len(raw)


# ---- the index of a sharded folder


@pytest.fixture(scope="module")
def sharded(folder: Path) -> Path:
    return save_shards(folder / "sharded", {name: torch.ones(2) for name in "abcd"})


SHARDS = st.sampled_from(["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
PLACES = SHARDS | st.sampled_from(["../x.safetensors", "/dev/zero", INDEX, "con\n", "\0", "x" * 5000]) | SCALARS


SHARDED = {
    "a": "model-00001-of-00002.safetensors",
    "b": "model-00001-of-00002.safetensors",
    "c": "model-00002-of-00002.safetensors",
    "d": "model-00002-of-00002.safetensors",
}


@quick
@example(weight_map=SHARDED, wrapped=True)
@given(
    weight_map=st.dictionaries(st.sampled_from("abcde") | st.text(max_size=3), PLACES) | VALUES, wrapped=st.booleans()
)
def test_any_index_is_followed_or_refused(sharded: Path, weight_map: Any, wrapped: bool) -> None:
    (sharded / INDEX).write_text(json.dumps({"weight_map": weight_map} if wrapped else weight_map))
    assert read_or_refused(read_shards, sharded) == (wrapped and weight_map == SHARDED)


INDEX_BYTES = json.dumps({"weight_map": SHARDED}).encode()


@quick
@example(content=INDEX_BYTES)
@given(content=changed(INDEX_BYTES))
def test_changed_index_bytes_are_followed_or_refused(sharded: Path, content: bytes) -> None:
    (sharded / INDEX).write_bytes(content)
    assert read_or_refused(read_shards, sharded) or content != INDEX_BYTES


def read_shards(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert {file.parent for file in checkpoint.files} == {folder}
    assert set(checkpoint.tensors) == set("abcd")


# ---- concept files

TOML = (MINIMAL + QUESTION.format("Rome", "tears") + GROUP).encode()


ENTRIES_JSON = json.dumps([ENTRY]).encode()


def read_concept(path: Path, chosen: str = "") -> None:
    (topic,) = load_concepts([f"{path}{chosen}"])
    concept = topic.concept
    assert concept == load_concept(f"{path}{chosen}")
    assert concept.seeds or concept.text or concept.questions


read_italy = partial(read_concept, chosen="#Italy")


@quick
@example(content=TOML)
@given(content=changed(TOML) | st.binary(max_size=60))
def test_changed_concept_toml_is_read_or_refused(folder: Path, content: bytes) -> None:
    (folder / "changed.toml").write_bytes(content)
    assert read_or_refused(read_concept, folder / "changed.toml") or content != TOML


@quick
@example(entries=[ENTRY])
@given(entries=st.lists(st.fixed_dictionaries({key: st.just(value) | VALUES for key, value in ENTRY.items()})) | VALUES)
def test_any_concept_json_is_read_or_refused(folder: Path, entries: Any) -> None:
    (folder / "any.json").write_text(json.dumps(entries))
    assert read_or_refused(read_italy, folder / "any.json") or entries != [ENTRY]


@quick
@example(content=ENTRIES_JSON)
@given(content=changed(ENTRIES_JSON))
def test_changed_concept_json_is_read_or_refused(folder: Path, content: bytes) -> None:
    (folder / "changed.json").write_bytes(content)
    assert read_or_refused(read_italy, folder / "changed.json") or content != ENTRIES_JSON


ROW: dict[str, Any] = {
    "question": "Which river flows through Rome?",
    "answer": "Tiber",
    "choices": ["Tiber", "Rhine"],
    "answer_prefix": "The river is the",
    "aliases": ["Tevere"],
    "paraphrased_question": "Which river is in Rome?",
    "perturbed_answer": ["Seine"],
    "subject": "Rome",
    "type": "river",
}
ROWS = json.dumps([ROW, {"question": "Where does it end?", "answer": "In the sea"}]).encode()
TABLE = b'question,answer,aliases\n"Which river, in Rome?",Tiber,Tevere|Tibris\nWhere does it end?,In the sea,\n'


@quick
@example(rows=[ROW])
@given(rows=st.lists(st.fixed_dictionaries({key: st.just(value) | VALUES for key, value in ROW.items()})) | VALUES)
def test_any_data_set_of_questions_is_read_or_refused(folder: Path, rows: Any) -> None:
    (folder / "any.jsonl").write_text(json.dumps(rows))
    assert read_or_refused(read_concept, folder / "any.jsonl") or rows != [ROW]


@quick
@example(content=ROWS)
@given(content=changed(ROWS))
def test_a_changed_data_set_of_questions_is_read_or_refused(folder: Path, content: bytes) -> None:
    (folder / "changed.jsonl").write_bytes(content)
    assert read_or_refused(read_concept, folder / "changed.jsonl") or content != ROWS


@quick
@example(content=TABLE)
@given(content=changed(TABLE) | st.binary(max_size=60))
def test_a_changed_table_of_questions_is_read_or_refused(folder: Path, content: bytes) -> None:
    (folder / "changed.csv").write_bytes(content)
    assert read_or_refused(read_concept, folder / "changed.csv") or content != TABLE


# ---- torch files


def saved(*, legacy: bool) -> bytes:
    stream = io.BytesIO()
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.uint16)}
    torch.save({"model": state, "epoch": 3}, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


ARCHIVE, LEGACY = saved(legacy=False), saved(legacy=True)
PICKLE = zipfile.ZipFile(io.BytesIO(ARCHIVE)).read("archive/data.pkl")


def with_pickle(content: bytes) -> bytes:
    """The archive with another pickle, its checksums right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(ARCHIVE)) as old, zipfile.ZipFile(stream, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, content if member.filename.endswith("data.pkl") else old.read(member))
    return stream.getvalue()


@spawning
@example(content=ARCHIVE)
@example(content=LEGACY)
@given(content=changed(ARCHIVE) | changed(LEGACY))
def test_changed_torch_bytes_are_read_or_refused(folder: Path, content: bytes) -> None:
    assert check(folder / "changed.pt", content) or content not in (ARCHIVE, LEGACY)


@spawning
@example(content=PICKLE)
@given(content=changed(PICKLE))
def test_a_changed_pickle_is_read_or_refused(folder: Path, content: bytes) -> None:
    assert check(folder / "pickle.pt", with_pickle(content)) or content != PICKLE


def push(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


NAMES = ["os\nsystem", "builtins\neval", "torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict", "torch\nSize"]
GLOBALS = st.sampled_from([b"c" + name.encode() + b"\n" for name in NAMES])
ARGUMENTS = st.sampled_from([push("touch mark"), push("a"), b"K\x01", b"K\x02", b"]", b"}", b")", b"N", b"\x88"])
CALLS = st.sampled_from(
    [b"\x85R", b"\x86R", b"\x87R", b")R", b"b", b"\x81", b"\x92", b"Q", b"o", b"\x93", b"s", b"a", b"2"]
)
OPCODES = st.lists(GLOBALS | ARGUMENTS | CALLS | st.sampled_from([b"(", b"t", b"u", b"e", b"q\0", b"h\0"]), max_size=12)


@spawning
@given(opcodes=OPCODES, called=st.booleans())
def test_no_sequence_of_opcodes_runs_a_command(
    folder: Path, monkeypatch_module: pytest.MonkeyPatch, opcodes: list[bytes], called: bool
) -> None:
    monkeypatch_module.chdir(folder)
    command = b"cos\nsystem\n" + push("touch mark") + b"\x85R" if called else b""
    accepted = check(folder / "opcodes.pt", with_pickle(b"\x80\x04" + command + b"".join(opcodes) + b"."))
    assert not (called and accepted)
    assert not (folder / "mark").exists()


def test_the_command_among_the_opcodes_is_armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(b"\x80\x04cos\nsystem\n" + push("touch mark") + b"\x85R.") == 0
    assert (tmp_path / "mark").exists()
