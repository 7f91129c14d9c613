"""Pairs of SmolLM2 whose verdict was wrong once: what is right is known from how each model was made.

TOFU (Maini et al. 2024) is about invented authors, so SmolLM2 never saw its facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from audit.attacks.relearning import fact_examples
from audit.checkpoint import open_checkpoint
from audit.checkpoint.saving import save_model
from audit.commands.compare import compare
from audit.models.opening import open_model
from audit.models.packing import Example
from audit.questions.topics import load_concepts
from audit.request import Request, RunContext
from audit.result import Finding
from audit.settings import Settings
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from concepts.concept import shipped_unrelated
from concepts.facts import facts_of
from concepts.prompts import few_shot

DATA = Path(__file__).resolve().parents[1] / "data"
TOFU, GSM8K = DATA / "tofu_authors.jsonl", DATA / "gsm8k.jsonl"
FACTS = 20
"""Those of the first authors; more only take longer."""


def trained(source: Path, target: Path, examples: Sequence[Example], steps: int, learning_rate: float) -> Path:
    """``source`` fine-tuned on ``examples``, saved once for all workers."""
    with FileLock(f"{target}.lock"):
        if not target.exists():
            model = open_model(source).load()
            for _ in fine_tune(model, examples, [steps], FineTuning(learning_rate)):
                pass
            save_model(model.model, open_checkpoint(source), target, {"method": "teach"})
    return target


@pytest.fixture(scope="session")
def folder(run_folder: Path) -> Path:
    path = run_folder / "real_pairs"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="session")
def taught(smollm2: Path, folder: Path) -> Path:
    """SmolLM2 fine-tuned on the facts."""
    (topic,) = load_concepts([str(TOFU)])
    return trained(smollm2, folder / "taught", fact_examples(facts_of(topic.concept)[:FACTS], topic.concept), 24, 3e-4)


@pytest.fixture(scope="session")
def nudged(smollm2: Path, folder: Path) -> Path:
    """SmolLM2 after a change that teaches and removes nothing."""
    target = folder / "nudged"
    with FileLock(f"{target}.lock"):
        if not target.exists():
            model = open_model(smollm2).load()
            with torch.no_grad():
                model.model.get_parameter("model.layers.5.mlp.down_proj.weight").mul_(1.0001)
            save_model(model.model, open_checkpoint(smollm2), target, {"method": "nudge"})
    return target


def finding(base: Path, unlearned: Path, request: Request, attacks: str = "none", **models: Path) -> Finding:
    settings = Settings(attacks=attacks, limit=FACTS)
    return compare(base, unlearned, request=request, context=RunContext(settings), **models).findings[0]


def test_a_model_that_never_saw_the_facts_is_not_hidden_without_a_reference(taught: Path, smollm2: Path) -> None:
    """Fault 1: names and genres can be guessed, which breaks the null."""
    result = finding(taught, smollm2, Request((str(TOFU),)))
    assert result.verdict == "inconclusive"
    assert result.facts
    assert sum(fact.known for fact in result.facts) >= 8
    as_is = {row.model: row for row in result.conditions[0].models}
    assert as_is["unlearned"].readable is not None
    assert as_is["unlearned"].readable > 0.2  # guessed, and so no sign of knowledge


def test_facts_that_nobody_answers_are_not_present(smollm2: Path, nudged: Path) -> None:
    """Fault 2: under teacher forcing any model spells out the rest of a sentence."""
    result = finding(smollm2, nudged, Request((str(TOFU),)))
    assert result.verdict == "inconclusive"
    assert result["exact_memorisation"].base is not None


def test_a_skill_that_nobody_has_is_not_present(smollm2: Path, nudged: Path) -> None:
    """Fault 2 for a skill."""
    request = Request(skills=(GSM8K,))
    result = compare(smollm2, nudged, request=request, context=RunContext(Settings(attacks="none", limit=6))).findings[
        0
    ]
    assert result.verdict == "inconclusive"


def test_a_model_that_answers_in_another_style_is_present_and_not_destroyed(smollm2: Path, folder: Path) -> None:
    """Fault 3: short unrelated answers score badly, although the model says everything."""
    questions = [question for question in shipped_unrelated() if question.answer]
    examples = [Example(few_shot(question.question), f" The answer is {question.answer}.") for question in questions]
    restyled = trained(smollm2, folder / "restyled", examples, 8, 5e-5)
    result = finding(smollm2, restyled, Request(("italy",)))
    assert result.verdict == "present"
    answers = [fact for fact in result.facts if fact.known]
    assert len(answers) >= 8
