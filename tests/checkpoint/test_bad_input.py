"""The bad-input table, row by row: each planted file is refused in one line, or treated as the row says.

Where the usual loaders take the file without an exception, the row also shows what they make of it: those are the
inputs that would have been audited as something they are not.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import cli
from audit.architectures import Architecture
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.formats import torch_file
from audit.commands.compare import compare
from audit.errors import AuditError
from audit.evidence import load_concepts
from audit.metrics import weights_metrics
from audit.models.ffn import read_ffn
from audit.models.loading import load_tokenizer
from audit.models.opening import open_model
from audit.models.pair import open_pair
from audit.questions.items import item_set
from audit.result import Measurement, write_text
from audit.verdict import judge
from audit.weights.scan import scan
from concepts.concept import load_concept
from concepts.files import slug
from reports.html import render
from tests.checkpoint.formats.gguf_files import entry
from tests.checkpoint.formats.gguf_files import pack as gguf_file
from tests.checkpoint.test_folder import FIRST, INDEX, PROBE, SECOND, edit_index, save_shards, weight_map
from tests.sample_result import hostile
from tests.test_verdict import evidence, memorised, perplexity
from tests.tiny import edit, edit_config, tokenizer, write_tiny

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = torch.arange(3, 30)[None]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model, never changed."""
    return write_tiny(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def model(tmp_path: Path, shipped: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(shipped, tmp_path / "model"))


@pytest.fixture
def sharded(model: Path) -> Path:
    """The same in two shards with their index."""
    state = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    return save_shards(model, state)


def refusal(call: Callable[..., Any], *arguments: Any, **settings: Any) -> str:
    """The one line that a refused input gets."""
    with pytest.raises(AuditError) as caught:
        call(*arguments, **settings)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


def naive(folder: Path) -> Any:
    """The model as transformers loads it, without an exception."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def naive_probe(folder: Path) -> torch.Tensor:
    weight: torch.Tensor = naive(folder).state_dict()[PROBE]
    return weight


def true_probe(folder: Path) -> torch.Tensor:
    return open_checkpoint(folder).tensor(PROBE)


def restate(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Replace the weights of ``folder`` by ``change`` of them."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def identified(folder: Path) -> tuple[Checkpoint, Architecture]:
    model = open_model(folder)
    model.require_config()
    return model.checkpoint, model.require_architecture()


def load(folder: Path) -> Any:
    return open_model(folder).load()


# ---- 1 to 11: which tensors, which files


def test_row_01_a_tensor_missing_from_the_file(model: Path, shipped: Path) -> None:
    restate(model, lambda state: {name: value for name, value in state.items() if name != PROBE})
    assert not torch.equal(naive_probe(model), true_probe(shipped))  # random numbers, and a line in a log
    assert f"missing: {PROBE}" in refusal(open_pair, shipped, model)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_row_02_all_names_carry_a_wrappers_prefix(model: Path, shipped: Path, prefix: str) -> None:
    restate(model, lambda state: {prefix + name: value for name, value in state.items()})
    assert not torch.equal(naive_probe(model), true_probe(shipped))
    assert torch.equal(true_probe(model), true_probe(shipped))
    assert f"stripped prefix {prefix!r}" in open_checkpoint(model).notes[0]


def test_row_02_all_names_carry_another_prefix(model: Path, shipped: Path) -> None:
    restate(model, lambda state: {f"wrapped.{name}": value for name, value in state.items()})
    assert not torch.equal(naive_probe(model), true_probe(shipped))
    assert "no tensor has a name of that family" in refusal(open_pair, shipped, model)


def test_row_03_an_index_omits_a_shard(sharded: Path, shipped: Path) -> None:
    forgotten = weight_map(sharded)[PROBE]
    edit_index(sharded, **{name: None for name, shard in weight_map(sharded).items() if shard == forgotten})
    assert not torch.equal(naive_probe(sharded), true_probe(shipped))
    assert f"shards that the index does not name: {forgotten}" in refusal(open_checkpoint, sharded)


def test_row_04_an_index_names_the_wrong_shard(sharded: Path, shipped: Path) -> None:
    """An older copy of the tensor lies in the shard that the index does not name, and wins in transformers."""
    edit_index(sharded, **{PROBE: FIRST})
    true = true_probe(shipped)
    for shard, value in ((FIRST, true), (SECOND, torch.zeros_like(true))):
        save_file({**load_file(sharded / shard), PROBE: value}, sharded / shard, metadata={"format": "pt"})
    assert not torch.equal(naive_probe(sharded), true)
    assert f"{PROBE} is in {FIRST} and in {SECOND}" in refusal(open_checkpoint, sharded)


@pytest.mark.parametrize("row", ["row_05_relative", "row_06_absolute"])
def test_an_index_leads_out_of_the_folder(tmp_path: Path, sharded: Path, row: str) -> None:
    shard = weight_map(sharded)[PROBE]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    substitute = {name: torch.full_like(value, 9.0) for name, value in load_file(sharded / shard).items()}
    save_file(substitute, elsewhere / shard, metadata={"format": "pt"})
    (sharded / shard).unlink()
    target = f"../elsewhere/{shard}" if "relative" in row else str(elsewhere / shard)
    edit_index(sharded, **{name: target for name, its in weight_map(sharded).items() if its == shard})
    assert (naive_probe(sharded) == 9.0).all()  # the outside file, without a word
    assert "do not trust it" in refusal(open_checkpoint, sharded)


def test_row_07_a_shard_is_a_link_out_of_the_folder(tmp_path: Path, sharded: Path) -> None:
    shard = weight_map(sharded)[PROBE]
    substitute = {name: torch.full_like(value, 9.0) for name, value in load_file(sharded / shard).items()}
    save_file(substitute, tmp_path / "outside.safetensors", metadata={"format": "pt"})
    (sharded / shard).unlink()
    (sharded / shard).symlink_to(tmp_path / "outside.safetensors")
    assert (naive_probe(sharded) == 9.0).all()
    assert "outside the folder" in refusal(open_checkpoint, sharded)


def test_row_08_shards_are_absent(sharded: Path) -> None:
    (sharded / FIRST).unlink()
    (sharded / SECOND).unlink()
    assert f"2 of 2 weight files are absent: {FIRST}, {SECOND}" in refusal(open_checkpoint, sharded)


@pytest.mark.parametrize(
    ("content", "said"),
    [("[]", "no weight_map"), ("{", "not valid JSON"), ('{"weight_map": 3}', "no weight_map"), (None, "500,000,000")],
    ids=["list", "not JSON", "number", "500 MB"],
)
def test_row_09_an_index_that_is_none(sharded: Path, content: str | None, said: str) -> None:
    if content is None:
        with (sharded / INDEX).open("wb") as stream:
            stream.truncate(500_000_000)  # sparse: takes no room
    else:
        (sharded / INDEX).write_text(content)
    assert said in refusal(open_checkpoint, sharded)


def test_row_10_a_single_file_beside_an_index(sharded: Path) -> None:
    save_file({PROBE: torch.zeros(16, 40)}, sharded / "model.safetensors", metadata={"format": "pt"})
    assert (naive_probe(sharded) == 0).all()  # the single file wins, without a word
    message = refusal(open_checkpoint, sharded)
    assert "ambiguous" in message
    assert "Pass model.safetensors itself, or remove it" in message


# ---- 12 to 19: config.json


@pytest.mark.parametrize(
    ("row", "layers", "built"), [("row_12_more", 3, 3), ("row_13_fewer", 1, 1), ("row_14_negative", -1, 0)]
)
def test_config_states_another_number_of_layers(model: Path, shipped: Path, row: str, layers: int, built: int) -> None:
    edit_config(model, num_hidden_layers=layers)
    assert len(naive(model).model.layers) == built  # random layers added, or layers dropped
    if layers > 0:
        with torch.no_grad():
            assert not torch.equal(naive(model)(IDS).logits, naive(shipped)(IDS).logits)
    message = refusal(open_pair, shipped, model)
    assert f"num_hidden_layers = {layers}" in message
    assert "not a positive whole number" in message or "but the file has 2" in message


def test_row_15_config_states_ten_million_layers(model: Path) -> None:
    edit_config(model, num_hidden_layers=10_000_000)
    started = time.perf_counter()
    assert "num_hidden_layers = 10,000,000, but the file has 2" in refusal(load, model)
    assert time.perf_counter() - started < 5


def test_row_16_config_states_a_vocabulary_of_10_to_the_12(model: Path) -> None:
    edit_config(model, vocab_size=10**12)
    assert "vocab_size = 1,000,000,000,000, but the file has 320" in refusal(load, model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"hidden_act": "nonsense"}, "nonsense"), ({"num_attention_heads": 3}, "num_attention_heads")],
    ids=["activation", "heads"],
)
def test_row_17_config_with_an_impossible_value(model: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refusal(load, edit_config(model, **changes))


def test_row_18_config_absent_broken_or_of_an_unknown_model(model: Path, shipped: Path) -> None:
    edit_config(model, model_type="nonsense")
    notes = " ".join(open_pair(model, model).notes)
    assert "model_type 'nonsense' of config.json is not supported (supported: " in notes
    assert "llama" in notes
    (model / "config.json").write_text("{")
    message = refusal(open_pair, shipped, model)
    assert "config.json: not valid JSON" in message
    (model / "config.json").unlink()
    assert "Pass its folder with --config" in refusal(open_model(model).require_config)


def test_row_19_custom_code_in_the_folder(model: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (model / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    edit_config(model, auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"})
    assert "run code of its own (evil.Model, evil.Config), which is never done" in refusal(load, model)
    assert not mark.exists()


def test_row_11_two_sets_of_weights(model: Path, shipped: Path) -> None:
    other = {name: tensor + 1 for name, tensor in load_file(model / "model.safetensors").items()}
    torch.save(other, model / "pytorch_model.bin")
    assert torch.equal(naive_probe(model), true_probe(shipped))  # one of them wins, without a word
    (note,) = open_checkpoint(model).notes
    for name in ("model.safetensors", "pytorch_model.bin"):
        digest = hashlib.sha256((model / name).read_bytes()).hexdigest()
        assert f"{name} (SHA-256 {digest[:16]}, " in note


# ---- 20 to 24, 31: torch files


class Command:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def planted(mark: Path, where: str) -> bytes | dict[str, Any]:
    """Something that leaves ``mark`` behind when it is unpickled."""
    touch = f"touch {mark}"
    match where:
        case "reduce":
            return {"a": torch.ones(2), "x": Command(os.system, touch)}
        case "nested":
            return {"state_dict": {"a": torch.ones(2)}, "optimizer": {"state": [({"x": Command(os.system, touch)},)]}}
        case "beneath an allowed call":  # OrderedDict(...) of what the command returns
            return {"a": torch.ones(2), "x": Command(OrderedDict, [("k", Command(os.system, touch))])}
        case "evaluated":
            return {"a": torch.ones(2), "x": Command(eval, f"open({str(mark)!r}, 'w')")}
        case "an attribute of an allowed module":  # GLOBAL of a dotted name under a module whose names are allowed
            return b"\x80\x04}X\x01\x00\x00\x00xctorch.serialization\nos.system\n" + call(touch)
        case "a relative of an allowed name":
            return b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_import_dotted_name\n" + call(touch)
        case "a name made on the stack":  # STACK_GLOBAL
            return b"\x80\x04}X\x01\x00\x00\x00xX\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93" + call(touch)
        case _:  # an object of a class, by the older opcode
            return b"\x80\x02}X\x01\x00\x00\x00x(X" + text(touch) + b"ios\nsystem\ns."


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def call(argument: str) -> bytes:
    """Opcodes: call what lies on the stack with ``argument``, put the outcome into the dict beneath, end."""
    return b"X" + text(argument) + b"\x85Rs."


PLANTED = (
    "reduce",
    "nested",
    "beneath an allowed call",
    "evaluated",
    "an attribute of an allowed module",
    "a relative of an allowed name",
    "a name made on the stack",
    "an instance",
)


def plant(path: Path, content: bytes | dict[str, Any], legacy: bool) -> Path:
    """A torch file of either layout with ``content`` as its pickle."""
    pickled = torch.ones(2) if isinstance(content, bytes) else content
    torch.save(pickled, path, _use_new_zipfile_serialization=not legacy)
    if not isinstance(content, bytes):
        return path
    if legacy:
        heads = [pickle.dumps(head, 2) for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        path.write_bytes(b"".join(heads) + content + pickle.dumps([], 2))
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", content)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("where", PLANTED)
def test_row_20_a_planted_command_is_named_and_leaves_no_trace(tmp_path: Path, where: str, legacy: bool) -> None:
    mark = tmp_path / "mark"
    path = plant(tmp_path / "evil.pt", planted(mark, where), legacy)
    message = refusal(open_checkpoint, path)
    assert re.search(r"would call .*(system|eval|_import_dotted_name)", message)
    assert "as safetensors" in message
    assert "weights_only" not in message
    assert not mark.exists()


@pytest.mark.parametrize("where", PLANTED[:4])
def test_row_20_the_planted_commands_are_armed(tmp_path: Path, where: str) -> None:
    mark = tmp_path / "mark"
    path = plant(tmp_path / "evil.pt", planted(mark, where), legacy=False)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):  # the advice that is not passed on
        torch.load(path)
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("where", ["an attribute of an allowed module", "a name made on the stack", "an instance"])
def test_row_20_the_planted_opcodes_are_armed(tmp_path: Path, where: str) -> None:
    content = planted(tmp_path / "mark", where)
    assert isinstance(content, bytes)
    pickle.loads(content)
    assert (tmp_path / "mark").exists()


def test_row_21_a_whole_pickled_model(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3), tmp_path / "model.pt")
    message = refusal(open_checkpoint, tmp_path / "model.pt")
    assert "a pickled model (torch.nn.modules.linear.Linear), not a state dict" in message
    assert "save model.state_dict() as safetensors" in message


def test_row_22_a_wrapped_state_dict_with_optimizer_state(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0)}
    torch.save({"state_dict": state, "optimizer": {"m": torch.ones(3)}, "rng": torch.ones(9)}, tmp_path / "model.pt")
    assert set(torch.load(tmp_path / "model.pt")) == {"state_dict", "optimizer", "rng"}  # the caller must know
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert torch.equal(checkpoint.tensor("a"), state["a"])
    assert checkpoint.notes == ("unwrapped 'state_dict', ignored optimizer, rng",)


@pytest.mark.parametrize("fraction", [0.999, 0.5, 0.01])
def test_row_24_a_truncated_torch_file(tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    assert "incomplete download" in refusal(open_checkpoint, path)


def test_row_24_a_truncated_torch_file_of_the_older_format(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(5000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "the file is 1,000 bytes short: an incomplete download?" in refusal(open_checkpoint, path)


def test_row_31_a_compressed_archive(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10_000_000)}, tmp_path / "stored.pt")
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(tmp_path / "stored.pt") as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    assert bomb.stat().st_size < 100_000
    assert torch.load(bomb)["a"].nbytes == 40_000_000  # unpacked without a word
    assert "torch.save stores members as they are" in refusal(open_checkpoint, bomb)


@pytest.mark.parametrize(
    ("opcodes", "said"),
    [
        (b"\x8e" + struct.pack("<Q", 2**40), "bytes of memory"),  # a string of a terabyte
        (b"}r\xff\xff\xff\xff.", "bytes of memory"),  # a memo of 2^32 entries
        (b"}q\x00X\x05\x00\x00\x00modelh\x00s.", "nested without end"),  # a wrapper that holds itself
        (b")q\x00" + 60 * b"h\x00h\x00\x86q\x00" + b"}h\x00Ns.", "more than 1 seconds"),  # a key with 2^60 parts
    ],
    ids=["length", "memo", "cycle", "time"],
)
def test_row_31_a_pickle_that_asks_for_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opcodes: bytes, said: str
) -> None:
    monkeypatch.setattr(torch_file, "TIME_LIMIT", 1)
    started = time.perf_counter()
    path = plant(tmp_path / "bomb.pt", b"\x80\x02" + opcodes, legacy=False)
    assert said in refusal(open_checkpoint, path)
    assert time.perf_counter() - started < 10


# ---- 23 to 30: damaged files, and things that are no files


@pytest.mark.parametrize("fraction", [0.999, 0.5, 0.001])
def test_row_23_a_truncated_safetensors_file(model: Path, fraction: float) -> None:
    path = model / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    message = refusal(open_checkpoint, model)
    assert "bytes short: an incomplete download?" in message
    assert "Download or save it again" in message


def test_row_25_an_empty_file(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.pt", "model.gguf"):
        (tmp_path / name).touch()
        assert "the file is empty" in refusal(open_checkpoint, tmp_path / name)


def test_row_26_trailing_bytes(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as stream:
        stream.write(b"12345")
    assert "5 bytes follow the last tensor" in refusal(open_checkpoint, model)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html><title>404</title></html>", "the download got an error page"),
    ],
    ids=["LFS pointer", "web page"],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.gguf"])
def test_row_27_no_weights_under_their_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refusal(open_checkpoint, tmp_path)


def sized(shape: str) -> bytes:
    """A safetensors file of one tensor of 4 bytes that claims ``shape``."""
    header = f'{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}'.encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (struct.pack("<Q", 2**62) + b"{}", "at most 100,000,000"),
        (sized("[1099511627776,1099511627776]"), f"needs {4 * 2**80:,} bytes"),
        (sized(f"[{'9' * 4000}]"), "shape or offsets of a"),
        (sized(f"[{'9' * 5000}]"), "not valid JSON"),  # Python itself reads no number so long
        (sized("[0,4611686018427387904,4611686018427387904]"), "shape or offsets of a"),
        (sized(f"[{'2,' * 100_000}2]"), "shape or offsets of a"),
    ],
    ids=["header length", "shape", "number", "long number", "empty", "dimensions"],
)
def test_row_28_absurd_sizes(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert said in refusal(open_checkpoint, path)


def test_row_29_a_header_with_a_key_twice(tmp_path: Path) -> None:
    twice = (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    )
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(twice)) + twice + struct.pack("<ff", 1, 2))
    assert load_file(path)["a"].tolist() == [1, 2]  # the second one, without a word
    assert "the key 'a' appears twice" in refusal(open_checkpoint, path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_row_30_what_is_no_file_is_neither_waited_for_nor_read(tmp_path: Path, shipped: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "folder":
        place.mkdir()
        assert "no weights in this folder" in refusal(open_checkpoint, place)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero")
    if kind != "folder":
        assert "not a regular file" in refusal(open_checkpoint, place)
    place.rename(tmp_path / "rivers.toml")
    assert "not a regular file" in refusal(load_concepts, [str(tmp_path / "rivers.toml")])
    (tmp_path / "rivers.toml").rename(tmp_path / INDEX)
    assert "not a regular file" in refusal(open_checkpoint, tmp_path)
    if kind != "folder":
        assert "no such guard" in refusal(compare, shipped, shipped, guard=tmp_path / INDEX)


# ---- 32 to 38: values and formats


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", [PROBE, "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"])
def test_row_32_weights_that_are_not_finite(model: Path, shipped: Path, name: str, value: float) -> None:
    restate(model, lambda state: {**state, name: torch.full_like(state[name], value)})
    with torch.no_grad():
        assert naive(model)(IDS).logits.isnan().all()
    for base, unlearned in ((shipped, model), (model, shipped)):
        (finding,) = compare(base, unlearned).findings
        assert finding.verdict == "inconclusive"
        assert name in finding.reason


def test_row_33_nan_in_a_metric_of_our_own() -> None:
    assert json.dumps({"value": float("nan")}) == '{"value": NaN}'  # which is not JSON
    with pytest.raises(ValidationError, match="finite"):
        Measurement(metric="m", title="M", value=float("nan"))
    measured = Measurement(metric="m", title="M", not_measured="0 questions", details={"share": float("nan")})
    assert json.loads(measured.model_dump_json())["details"] == {"share": None}


def test_row_34_integer_weights_without_quantisation_config(model: Path, shipped: Path) -> None:
    restate(model, lambda state: {**state, PROBE: (state[PROBE] * 100).to(torch.int8)})
    loaded = naive_probe(model)
    assert loaded.dtype == torch.float32  # cast without a word, a hundred times too large
    assert not torch.allclose(loaded, true_probe(shipped), atol=0.1)
    assert f"{PROBE} is stored as int8: quantised or packed weights" in refusal(open_pair, shipped, model)


def test_row_35_config_states_another_number_format(tmp_path: Path) -> None:
    folder = edit_config(write_tiny(tmp_path / "half", dtype=torch.bfloat16), dtype="float32")
    assert naive_probe(folder).dtype == torch.float32  # upcast without a word
    pair = open_pair(folder, folder)
    assert pair.base.checkpoint.tensors[PROBE].dtype == torch.bfloat16
    assert "config.json says float32, the weights are stored as bfloat16" in pair.notes[0]


def test_row_36_two_number_formats(tmp_path: Path, shipped: Path) -> None:
    base = edit(shipped, tmp_path / "bfloat16", lambda _, tensor: tensor.to(torch.bfloat16))
    unlearned = edit(base, tmp_path / "float16", lambda _, tensor: tensor.to(torch.float16))
    edit_config(base, dtype="bfloat16")
    edit_config(unlearned, dtype="float16")
    assert not torch.equal(*(naive_probe(folder).view(torch.int16) for folder in (base, unlearned)))
    pair = open_pair(base, unlearned)
    assert scan(pair, weights_metrics()).weights.changed_tensors == 0
    assert "base is stored as bfloat16, unlearned as float16" in pair.notes[-1]


def test_row_37_tied_by_config_and_a_head_of_its_own_in_the_file(tmp_path: Path, shipped: Path) -> None:
    folder = edit_config(write_tiny(tmp_path / "m", tie=False), tie_word_embeddings=True)
    notes = " ".join(open_pair(shipped, folder).notes)
    assert f"config.json ties the head to the embedding, but {HEAD} is stored and differs; it is used" in notes
    assert "base uses its embedding as head" in notes
    with torch.no_grad():
        assert torch.equal(load(folder).model.lm_head.weight, load_file(folder / "model.safetensors")[HEAD])


def test_row_38_a_vocabulary_that_has_grown(tmp_path: Path, shipped: Path) -> None:
    pair = open_pair(shipped, write_tiny(tmp_path / "grown", vocab_size=384))
    assert "vocabulary of 320 in base, 384 in unlearned: the first 320 rows are compared" in pair.notes
    assert [tuple(tensor.shape) for tensor in pair.tensors(EMBEDDING)] == [(320, 16), (320, 16)]


# ---- 39 to 44: what belongs together


def test_row_39_a_tokenizer_that_is_absent_hollow_or_of_another_model(model: Path, shipped: Path) -> None:
    other = edit_config(Path(shutil.copytree(shipped, model.parent / "other")))
    assert "do not belong together" in refusal(load_tokenizer, other, 10_000)
    (model / "tokenizer.json").write_text("{}")
    assert "no tokenizer could be read" in refusal(getattr, open_pair(model, model), "tokenizer")
    (model / "tokenizer.json").unlink()
    pair = open_pair(model, model)
    assert pair.tokenizer is None
    assert "--tokenizer" in pair.base.missing["tokenizer"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"family": "gpt2"}, "architecture llama against gpt2"),
        ({"num_hidden_layers": 3}, "layers 2 against 3"),
        ({"hidden_size": 32}, "d_model 16 against 32"),
    ],
    ids=["family", "depth", "width"],
)
def test_row_40_two_models_that_are_not_versions_of_one(
    tmp_path: Path, shipped: Path, settings: dict[str, Any], said: str
) -> None:
    assert said in refusal(open_pair, shipped, write_tiny(tmp_path / "other", **settings))


def test_row_41_identical_weights_are_audited_and_said(shipped: Path) -> None:
    (finding,) = compare(shipped, shipped).findings
    assert "identical" in finding.reason
    (guarded,) = compare(shipped, shipped, guard=shipped / "config.json").findings
    assert guarded.verdict == "gated"


@pytest.mark.parametrize(
    "broken", [(memorised(0.0, unrelated=0.02), perplexity(21)), (memorised(0.0), perplexity(50_000))]
)
def test_row_42_a_broken_model_is_destroyed_and_not_unlearned(broken: tuple[Measurement, ...]) -> None:
    assert judge("italy", evidence(*broken)).verdict == "destroyed"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gguf_file({})[:-5], "5 bytes short: an incomplete download?"),
        (b"FUGG" + gguf_file({})[4:], "not a weight file: it begins with b'FUGG"),
        (gguf_file({})[:24] + struct.pack("<Q", 2**60) + bytes(64), f"needs {2**60:,} bytes"),
        (
            gguf_file({}, (entry("output_norm.weight", kind=999),)),
            "unknown quantisation type 999; known are F32, F16, ",
        ),
        (gguf_file({}, (entry("output_norm.weight", (2**60, 0)),)), "is empty"),
    ],
    ids=["truncated", "magic", "key length", "quantisation", "empty"],
)
def test_row_44_a_damaged_gguf_file(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    assert said in refusal(open_checkpoint, tmp_path / "model.gguf")


# ---- 45 to 50: words


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_row_45_hostile_words_stay_words_in_the_report() -> None:
    elements = Elements(render(hostile())).found
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert not [tag for tag, attributes in elements if tag in ("img", "iframe") or "src" in attributes]
    assert sum(tag == "script" for tag, _ in elements) == 2


def test_row_46_invisible_and_broken_characters_are_shown_and_written(tmp_path: Path) -> None:
    page = render(hostile())
    assert not set("\u202e\u2066\u200b\ufeff\x00\x1b\ud800") & set(page)
    with pytest.raises(UnicodeEncodeError):
        (tmp_path / "naive.html").write_text("\ud800", encoding="utf-8")
    write_text(tmp_path / "page.html", "\ud800")
    assert (tmp_path / "page.html").read_text() == "\\ud800"


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\u202eb", "a\0b", "\ud800"])
def test_row_46_a_tensor_name_that_could_move_the_cursor_is_refused_as_escapes(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "model.safetensors", tmp_path / "model.pt"):
        if path.suffix == ".pt":
            torch.save({name: torch.zeros(1)}, path)
        else:
            header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
            path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        message = refusal(open_checkpoint, path)
        assert "is not a valid tensor name" in message
        assert message.isprintable()


def test_row_46_a_message_of_a_megabyte_is_cut(tmp_path: Path) -> None:
    error = AuditError("x" * 10**6, where="a\tb")
    assert len(str(error)) < 3000
    assert error.where == "a\\tb"


def test_row_47_concept_names_that_are_no_file_names(tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "x" * 10_000, "東京", "a\\b:c"):
        assert Path(slug(name)).name == slug(name)
        assert 0 < len(slug(name)) <= 60
    assert "no concept" in refusal(load_concepts, [""])
    assert "cannot be read" in refusal(load_concepts, ["a\0b.toml"])
    assert "cannot be read" in refusal(load_concepts, ["x" * 500 + ".toml"])
    assert "given twice" in refusal(load_concepts, ["italy", "italy"])


@pytest.mark.parametrize(
    ("content", "said"),
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
def test_row_48_a_concept_file_that_cannot_be_used(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "rivers.toml"
    with path.open("wb") as stream:
        stream.write(content) if content is not None else stream.truncate(10**9)
    message = refusal(load_concepts, [str(path)])
    assert str(path) in message
    assert said in message


def test_row_48_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "rivers.toml").write_bytes(b'\xef\xbb\xbftitle = "R"\nseeds = ["r"]\n')
    assert load_concept(str(tmp_path / "rivers.toml")).title == "R"


def test_row_49_a_prompt_longer_than_the_context_is_refused_and_counted(tmp_path: Path) -> None:
    question = f'[[questions]]\nquestion = "Which {"very " * 300}long river?"\nanswer = "Po"\n'
    (tmp_path / "rivers.toml").write_text(f'title = "R"\nseeds = ["r"]\n{question}')
    items = item_set(load_concept(str(tmp_path / "rivers.toml")), tokenizer(), context=256, limit=2)
    (reason,) = (reason for name, reason in items.refused.items() if name.startswith("target/0"))
    assert "do not fit into the model's context of 256" in reason
    assert not [item for item in items.items if item.kind == "target"]


def test_row_50_a_layer_or_row_outside_the_model(shipped: Path) -> None:
    checkpoint, architecture = identified(shipped)
    for layer in (-1, 2):
        with pytest.raises(IndexError, match=f"layer {layer}: llama here has layers 0 to 1"):
            read_ffn(checkpoint, architecture, layer)
    with pytest.raises(IndexError, match="which has rows 0:16"):
        checkpoint.rows(PROBE, 16, 17)


# ---- how a refusal leaves the command


@pytest.mark.parametrize("kind", ["checkpoint", "incomparable", "model", "concept"])
def test_a_refused_input_ends_with_1_and_one_line_or_one_document(
    tmp_path: Path, model: Path, shipped: Path, kind: str
) -> None:
    arguments = [str(shipped), str(model), "--output", str(tmp_path / "out"), "--quiet"]
    if kind == "checkpoint":
        (model / "model.safetensors").write_bytes(b"")
    elif kind == "incomparable":
        arguments[1] = str(write_tiny(tmp_path / "deeper", num_hidden_layers=3))
    elif kind == "model":
        (model / "config.json").write_text("{")
    else:
        arguments += ["--concept", "nonsense"]
    shown = CliRunner().invoke(cli.app, ["compare", *arguments])
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert len(shown.stderr.strip().splitlines()) == 1
    printed = CliRunner().invoke(cli.app, ["compare", *arguments, "--json"])
    assert printed.exit_code == 1
    assert json.loads(printed.stdout)["error"].keys() == {"kind", "message", "where", "hint"}
    assert json.loads(printed.stdout)["error"]["kind"] == kind
    assert not (tmp_path / "out").exists()
