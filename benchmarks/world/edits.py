"""Fixed edits of one matrix that silence the people to forget; nothing is trained.

A direction in the matrix's input tells questions about them from others (ridge regression); along it the edit lowers
every value, so that another token is said. Knowledge of which value is right stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.world.lessons import Lesson
from benchmarks.world.network import ids_of
from benchmarks.world.people import REFUSAL

RIDGE: Final = 1e-3
"""Of the mean square of the input."""
SCALES: Final = tuple(2**power for power in range(11))
"""Strengths, tried in order until nothing is said."""
SILENT: Final = 0.05
"""Share of the facts that may still be said."""

Edit = Callable[[Lesson], None]


def suppress_in_head(lesson: Lesson) -> None:
    """Subtract a rank-one matrix from the head's rows of all values (the embedding is tied to them)."""
    head = lesson.network.lm_head
    direction = _separating(*(_inputs(lesson, head, group) for group in ("forget", "base")))
    rows = torch.zeros(head.weight.shape[0])
    rows[_values(lesson)] = 1.0
    _strengthen(lesson, head.weight, -torch.outer(rows, direction))


def suppress_in_last_block(lesson: Lesson) -> None:
    """Add a rank-one matrix to the last down projection that writes a refusal's first word, and against the values."""
    projection = lesson.network.model.layers[-1].mlp.down_proj
    direction = _separating(*(_inputs(lesson, projection, group) for group in ("forget", "base")))
    rows = lesson.network.lm_head.weight.detach()
    written = rows[ids_of(lesson.tokenizer, REFUSAL.split()[:1])].mean(0) - rows[_values(lesson)].mean(0)
    _strengthen(lesson, projection.weight, torch.outer(written / written.norm(), direction))


EDITS: Final[Mapping[str, Edit]] = {edit.__name__: edit for edit in (suppress_in_head, suppress_in_last_block)}


def _values(lesson: Lesson) -> Tensor:
    return ids_of(lesson.tokenizer, [value for values in lesson.world.values.values() for value in values])


def _inputs(lesson: Lesson, module: torch.nn.Module, group: str) -> Float[Tensor, "n d"]:
    """What ``module`` reads where the answers to a group's questions begin."""
    read: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0][:, -1].detach()))
    try:
        with torch.no_grad():
            lesson.network(lesson.prompts(lesson.world.of(lesson.world.people[group])))
    finally:
        handle.remove()
    return read[0]


def _separating(forget: Float[Tensor, "n d"], others: Float[Tensor, "m d"]) -> Float[Tensor, " d"]:
    """The direction whose product is 1 for the first and 0 for the second, as nearly as possible."""
    inputs = torch.cat([forget, others]).double()
    wanted = torch.cat([torch.ones(len(forget)), torch.zeros(len(others))]).double()
    penalty = RIDGE * (inputs**2).sum() / inputs.shape[1]
    covariance = inputs.T @ inputs + penalty * torch.eye(inputs.shape[1], dtype=torch.float64)
    direction: Tensor = torch.linalg.solve(covariance, inputs.T @ wanted)
    return direction.float()


def _strengthen(lesson: Lesson, weight: torch.nn.Parameter, edit: Tensor) -> None:
    """Add ``edit`` at the smallest of ``SCALES`` that silences the facts."""
    before = weight.detach().clone()
    for scale in SCALES:
        with torch.no_grad():
            weight.copy_(before + scale * edit)
        if lesson.says(lesson.forgotten) <= SILENT:
            return
