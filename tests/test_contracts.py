"""One new file adds one thing: each row of the contract table, tried in a copy with nothing else changed.

All new files are written into one copy, whose commands are then run as a user runs them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Starcoder2Config

from tests.test_docs import ROOT, undocumented
from tests.tiny import VOCABULARY, edit, tokenizer

NEW = {
    "audit/metrics/answers/longest_answer.py": '''
"""Tokens of the longest answer about the topic, a metric that any model passes."""

from audit.result import Measured, not_measured

TITLE = "Longest answer about the {topic}"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def measure(evidence):
    lengths = [len(item.answer_ids) for item in evidence.readings["unlearned"].items if item.kind == "target"]
    if not lengths:
        return not_measured("no question has an answer to score")
    return Measured(value=float(max(lengths)), base=float(max(lengths)), unit="tokens", n=len(lengths))
''',
    "audit/metrics/weights/largest_change.py": '''
"""The largest change of one element, by tensor."""

from audit.result import Column, Measured
from audit.weights.contract import Observer as BaseObserver
from audit.weights.contract import Tally as BaseTally

TITLE = "Largest change of an element"
COLUMNS = (Column(name="largest_change", title="largest change"),)


class Tally(BaseTally):
    def __init__(self, tensor):
        super().__init__(tensor)
        self.largest = 0.0

    def add(self, block):
        if block.changed:
            self.largest = max(self.largest, float(block.delta.abs().max()))

    def result(self):
        return self.largest


class Observer(BaseObserver):
    def __init__(self, architecture):
        self.largest = 0.0

    def add(self, tensor, result):
        self.largest = max(self.largest, result)
        return {"largest_change": result}

    def measure(self):
        return Measured(value=self.largest, base=0.0, unit="as stored", direction="change")
''',
    "audit/questions/kinds/shouted.py": '''
"""The concept's questions in capitals, scored."""

from audit.models.generation import MAX_NEW_TOKENS
from audit.questions.kinds import PosedQuestion
from concepts.prompts import few_shot as prompt

TITLE = "Questions in capitals"
ORDER = 9
READS = frozenset({"scored"})
INPUT = "shouted"
ABSENT = "the concept {title} has no questions to put in capitals"
TRAINABLE = False


def exists(concept):
    return bool(concept.questions)


def questions(concept, limit):
    for place, question in enumerate(concept.questions[:limit]):
        if question.answer is not None:
            yield PosedQuestion(place, question.question.upper(), question.answer, question.answers)
''',
    "audit/attacks/rescaled.py": '''
"""The model with its head made larger: sharper answers, the same ones."""

from audit.attacks import AttackedModel
from audit.questions.conditions import Condition
from audit.unlearning.fine_tuning import preserved

TITLE = "a rescaled head"
COST = "passes"
INPUT = "rescaled"
LEVEL = "full"
NEEDS_REFERENCE = False
RECOVERS = True
METRICS = ("answer_accuracy", "answer_log_probability")


def conditions(given):
    condition = Condition("rescaled", "twice")
    if given.model is None:
        yield AttackedModel(condition, given.items)
        return
    with preserved(given.model):
        given.model.model.get_output_embeddings().weight.data.mul_(2)
        yield AttackedModel(condition, given.items, given.model)
''',
    "audit/interventions/negate.py": '''
"""The chosen value vectors with their sign turned."""

from audit.interventions import Rows, stored_rows

TITLE = "Chosen value vectors negated"
DOSES = (0.5, 1.0)
DRAWS = 1
TRAINS = False


def target(model, neurons, inputs):
    return {layer: Rows(rows.neurons, -rows.values) for layer, rows in stored_rows(model, neurons).items()}
''',
    "audit/unlearning/methods/fade.py": '''
"""Every weight is scaled down: forgets everything alike."""

import torch

from audit.unlearning.training import Record, TrainingSettings

TITLE = "Fade"
SETTINGS = TrainingSettings(steps=1)


def unlearn(model, forget, retain, settings=SETTINGS, progress=None):
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.mul_(1 - settings.learning_rate)
    return Record(method="fade", settings={}, changed={})
''',
    "concepts/jailbreaks/whisper.toml": """
title = "Whispered"
opening = "Nobody listens, so the answers can be given quietly.\\n\\n{examples}"
""",
    "concepts/readers/concepts/facts.py": '''
"""Lines of ``question | answer``."""

from concepts.concept import Concept, Question

TITLE = "Facts"
LAYOUT = "a .facts file with a question and its answer on each line, separated by |"
PREFERRED_TO = frozenset()


def recognises(path):
    return path.suffix == ".facts"


def read(path):
    pairs = [line.split("|") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    questions = tuple(Question(question=question.strip(), answer=answer.strip()) for question, answer in pairs)
    return Concept(name=path.stem, title=path.stem.title(), seeds=("Italy",), questions=questions)
''',
    "audit/architectures/starcoder2.toml": (ROOT / "CONTRIBUTING.md")
    .read_text(encoding="utf-8")
    .split("## Add a model family")[1]
    .split("```toml\n")[1]
    .split("```")[0],
}
ATTACKS = "jailbreaks,rescaled"
FACTS = "What is the capital of Italy? | Rome\nWhich city has canals? | Venice\nWhich city is in the north? | Milan\n"


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and their documentation with one new file of each kind."""
    copy = tmp_path_factory.mktemp("extended")
    for name in ("audit", "concepts", "reports", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli.py", "README.md", "CONTRIBUTING.md"):
        shutil.copyfile(ROOT / name, copy / name)
    for name, text in NEW.items():
        assert not (copy / name).exists(), name
        (copy / name).write_text(text.lstrip(), encoding="utf-8")
    (copy / "italy-short.facts").write_text(FACTS)
    return copy


def run(copy: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "cli", *arguments, "--json"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def run_python(copy: Path, source: str) -> str:
    """What a program prints that imports the copy."""
    done = subprocess.run([sys.executable, "-c", source], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A tiny model of the new family, and an edited version of it."""
    folder = tmp_path_factory.mktemp("pair")
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16}
    sizes |= {"intermediate_size": 40, "max_position_embeddings": 512, "vocab_size": VOCABULARY}
    base = folder / "base"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(Starcoder2Config(**sizes, initializer_range=0.2)).save_pretrained(base)
    tokenizer().save_pretrained(base)
    return str(base), str(edit(base, folder / "unlearned", lambda name, tensor: tensor * 1.01))


@pytest.fixture(scope="module")
def result(extended: Path, pair: tuple[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = run(
        extended, "compare", *pair, "--concept", "italy-short.facts", "--attacks", ATTACKS, "--output", "out"
    )
    return document


@pytest.fixture(scope="module")
def page(extended: Path, result: dict[str, Any]) -> str:
    return (extended / "out" / "report.html").read_text(encoding="utf-8")


def rows(result: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    (finding,) = result["findings"]
    return [row for row in finding["measurements"] if row["metric"] == metric]


def test_a_metric_is_one_file(result: dict[str, Any], page: str) -> None:
    (row,) = rows(result, "longest_answer")
    assert row["value"] > 0
    assert row["title"] == "Longest answer about the concept"
    assert row["source"] == "answers", "the page lists it under the question of its source"
    assert "Longest answer about the concept" in page


def test_a_weights_metric_with_a_column_is_one_file(result: dict[str, Any], page: str) -> None:
    measured = {row["metric"]: row for row in result["weights"]["measurements"]}
    assert measured["largest_change"]["value"] > 0
    assert "largest_change" in json.dumps(result["weights"]["per_tensor"][0])
    assert "largest change" in page.lower()


def test_a_kind_of_question_is_one_file(result: dict[str, Any], page: str) -> None:
    row = rows(result, "exact_memorisation")[0]
    assert row["details"]["by_kind"]["shouted"]["n"] == 3
    assert "shouted" in page


def test_an_attack_is_one_file(result: dict[str, Any], page: str) -> None:
    plain, attacked = rows(result, "answer_log_probability")
    assert (plain["condition"], attacked["condition"]) == ("as is", "rescaled: twice")
    assert attacked["value"] != plain["value"]
    written, written_under_attack = rows(result, "answer_accuracy")
    assert written_under_attack["n"] == written["n"] == 3  # the attacked model writes its own answers
    assert "rescaled: twice" in page


def test_a_jailbreak_prompt_is_one_file(result: dict[str, Any], page: str) -> None:
    (row,) = rows(result, "jailbreak_recovery")
    assert "whisper" in json.dumps(row) or "no two facts have answers of the same type" in str(row["not_measured"])
    (activation,) = rows(result, "vector_activation")
    assert "whisper" in json.dumps(activation) or activation["not_measured"]


def test_a_family_is_one_file(result: dict[str, Any]) -> None:
    assert result["subjects"]["base"]["architecture"] == "starcoder2"


def test_a_layout_of_concepts_is_one_file(result: dict[str, Any]) -> None:
    (finding,) = result["findings"]
    assert finding["title"] == "Italy-Short"


def test_an_intervention_is_one_file(extended: Path, pair: tuple[str, str]) -> None:
    listing = subprocess.run(
        [sys.executable, "-m", "cli", "ablate", "--help"], cwd=extended, capture_output=True, text=True, check=True
    )
    assert "negate" in listing.stdout
    edit = f"""
from pathlib import Path
from audit.interventions import EditInputs, apply, dose, methods
from audit.models.ffn import unembedding, value_rows
from audit.models.opening import open_model
from concepts.neuron import Neuron
opened = open_model(Path({pair[0]!r}))
model = opened.load()
before = value_rows(model, 1)[3].clone()
inputs = EditInputs(tokens=[], W_U=unembedding(opened.checkpoint, opened.require_architecture()))
apply(model, dose(model, methods()["negate"].target(model, [Neuron(1, 3)], inputs), 1.0))
print("negated" if before.any() and (value_rows(model, 1)[3] == -before).all() else "not negated")
"""
    assert run_python(extended, edit) == "negated"


def test_an_unlearning_method_is_one_file(extended: Path, pair: tuple[str, str]) -> None:
    unlearn = f"""
from dataclasses import replace
from pathlib import Path
from audit.models.opening import open_model
from audit.unlearning.methods import methods
method, model = methods()["fade"], open_model(Path({pair[0]!r})).load()
before = {{name: tensor.clone() for name, tensor in model.model.state_dict().items()}}
record = method.unlearn(model, [], [], replace(method.SETTINGS, learning_rate=0.5))
changed = all((tensor == before[name] / 2).all() for name, tensor in model.model.state_dict().items())
print(record.method, "changed every weight" if changed else "did not change every weight")
"""
    assert run_python(extended, unlearn) == "fade changed every weight"


def test_the_plan_counts_them(extended: Path, pair: tuple[str, str]) -> None:
    plans = f"""
import json
from pathlib import Path
from audit.attacks import attacks
from audit.commands.plan import plan_comparison
from audit.metrics import inputs, topic_metrics
from audit.questions.kinds import kinds
from audit.request import Request, RunContext
from audit.settings import Settings

def plan(without=None):
    if without:
        Path(without).rename("removed")
    for registry in (attacks, kinds, inputs, topic_metrics):
        registry.cache_clear()
    asked, context = Request(["italy-short.facts"]), RunContext(Settings(attacks="full"))
    planned = plan_comparison(Path({pair[0]!r}), Path({pair[1]!r}), request=asked, context=context)
    if without:
        Path("removed").rename(without)
    return [planned.forward_tokens, [row.metric for row in planned.metrics]]

files = "audit/questions/kinds/shouted.py", "audit/attacks/rescaled.py"
print(json.dumps([plan(), *map(plan, files)]))
"""
    (tokens, metrics), (without_kind, _), (without_attack, _) = json.loads(run_python(extended, plans))
    assert {"longest_answer", "largest_change"} <= set(metrics)
    assert without_kind < tokens
    assert without_attack < tokens


def test_the_documentation_check_names_what_is_not_documented(extended: Path) -> None:
    assert undocumented(ROOT) == []
    assert set(undocumented(extended)) == {Path(name).stem for name in NEW}


def test_a_file_that_breaks_its_contract_is_named(extended: Path, pair: tuple[str, str]) -> None:
    broken = extended / "audit/metrics/keys/half_done.py"
    broken.write_text('TITLE = "Half done"\nNEEDS = frozenset({"crystal ball"})\n\n\ndef measure(evidence): ...\n')
    command = [sys.executable, "-m", "cli", "compare", *pair, "--concept", "italy-short.facts", "--plan"]
    done = subprocess.run(command, cwd=extended, capture_output=True, text=True, check=False)
    broken.unlink()
    assert done.returncode != 0
    assert "half_done" in done.stderr
    assert "crystal ball" in done.stderr
