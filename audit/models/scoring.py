"""Log-probability of right answers after prompts of any length, teacher forced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from audit.models.loading import RunningModel
from audit.models.packing import Example, answer_logprobs, pack, tokenize

PACKED: Final = 4
"""Answers scored in one pass."""
LONGEST: Final = 512
"""Tokens of prompt and answer beyond which an answer is not scored."""


def fits(example: Example, model: RunningModel) -> bool:
    limit = min(LONGEST, model.context, model.window or model.context)
    return len(model.tokenizer(example.prompt + example.answer)["input_ids"]) <= limit


def scored(model: RunningModel, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Mean log-probability of each answer's tokens, and whether every one was the most probable."""
    means: list[float] = []
    exact: list[bool] = []
    tokens = [*enumerate(tokenize(model.tokenizer, examples))]
    with torch.inference_mode():
        for start in range(0, len(tokens), PACKED):
            row = pack(tokens[start : start + PACKED])
            logprobs = answer_logprobs(model, row)
            counts = torch.bincount(row.owner, minlength=len(row.examples))
            means += (row.answer_sums(logprobs) / counts).tolist()
            wrong = torch.bincount(row.owner[logprobs.argmax(dim=-1) != row.targets], minlength=len(row.examples))
            exact += (wrong == 0).tolist()
    return np.array(means), np.array(exact)
