"""What several test files share: opening a tiny model, training examples, plain forward passes to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audit.models import opening
from audit.models.loading import RunningModel
from audit.models.packing import Example, Tokens
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from audit.unlearning.methods import methods
from audit.unlearning.training_examples import FactExample
from concepts.concept import Question
from concepts.facts import Fact
from tests.tiny import edit, write_tiny

FORGET = [
    Example("Question: What is the capital of Italy?\nAnswer:", " Rome"),
    Example("Question: What is the capital of Italy, the country?\nAnswer:", " Rome, Venice"),
]


def fact_example(question: str, answer: str, subject: str) -> FactExample:
    """A fact about a city."""
    fact = Fact("city", subject, Question(question=question, answer=answer))
    return FactExample(f"Question: {question}\nAnswer:", f" {answer}", subject, fact=fact)


DIFFERENT = [
    fact_example("What is the capital of Italy?", "Rome", "Italy"),
    fact_example("Which city has canals?", "Venice", "canals"),
]
"""Facts of one type, of whose answers neither contains the other."""
RETAIN = [
    Example("Question: What is the capital of France?\nAnswer:", " Paris"),
    Example("A puppy is", " a young dog."),
    Example("Question: Who wrote Hamlet?\nAnswer:", " William Shakespeare"),
]

FORGET_PROMPTS = [
    "Question: What is the capital of Italy?",
    "Question: What is the capital of France?",
    "Question: What is the capital of Rome?",
]
RETAIN_PROMPTS = [
    "A puppy is a young dog.",
    "February has twenty-eight days.",
    "The pancreas makes insulin. A puppy is",
]


def short_of_memory_on_the_cpu() -> None:
    """Ask torch for more memory than any machine has."""
    torch.empty(2**50)


class Log:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int | None, int | None]] = []

    def step(self, text: str, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        self.steps.append((text, done, total))


def open_model(folder: Path, dtype: str = "float32") -> RunningModel:
    return opening.open_model(folder).load(dtype=dtype)


def write_taught(folder: Path, examples: list[Example]) -> Path:
    """A tiny model that was trained until it knows ``examples``."""
    start = write_tiny(folder.with_name(f"{folder.name} before"))
    model = open_model(start)
    for _ in fine_tune(model, examples, [80], FineTuning(2e-2)):
        pass
    state = model.model.state_dict()
    return edit(start, folder, lambda name, tensor: state[name])


def open_tiny(folder: Path, family: str, context: int = 512, **config: object) -> RunningModel:
    """A tiny model of ``family`` with room for ``context`` tokens, written into ``folder`` and opened."""
    positions = "n_positions" if family == "gpt2" else "max_position_embeddings"
    return open_model(write_tiny(folder, family, **{positions: context}, **config))


def plain_logprobs(model: RunningModel, ids: tuple[int, ...]) -> Tensor:
    """``[n_tokens, d_vocab]`` log-probabilities of a plain forward pass, one sequence, no hooks, no cache."""
    with torch.no_grad():
        return model.model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)


def answer_sum(model: RunningModel, tokens: Tokens, shift: float = 0.0) -> Tensor:
    """The summed answer log-probability of one example by a plain forward pass, ``shift`` added to all logits."""
    ids = torch.tensor([tokens.prompt + tokens.answer])
    logprobs = torch.log_softmax(model.model(ids).logits[0] + shift, dim=-1)
    places = range(len(tokens.prompt) - 1, ids.shape[1] - 1)
    return sum((logprobs[place, token] for place, token in zip(places, tokens.answer, strict=True)), torch.zeros(()))


def token_ids(model: RunningModel, texts: list[str]) -> list[list[int]]:
    return [model.tokenizer(text)["input_ids"] for text in texts]


def greedy_tokens(model: RunningModel, texts: list[str], cache: bool = True) -> list[list[int]]:
    """Eight greedy tokens after each text, all in one batch padded on the left."""
    rows = token_ids(model, texts)
    longest = max(map(len, rows))
    batch = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    generated = model.model.generate(
        input_ids=batch,
        attention_mask=mask,
        max_new_tokens=8,
        min_new_tokens=8,
        do_sample=False,
        use_cache=cache,
        pad_token_id=0,
        eos_token_id=None,
    )
    tokens: list[list[int]] = generated[:, longest:].tolist()
    return tokens


def needed_options(method: str, folder: Path) -> dict[str, Any]:
    """The options without which an unlearning method cannot run on a few examples; a second model is in ``folder``."""
    few = {"ssd": {"alpha": 1.0}, "laf": {"rank": 1}, "worst_case": {"rounds": 1, "selection_steps": 1}}
    if hasattr(methods()[method].SETTINGS, "reference"):
        return {"reference": str(write_tiny(folder / "reference", seed=1))}
    return few.get(method, {})
