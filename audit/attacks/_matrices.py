"""Attacks that replace the matrices of the blocks, each by a function of itself, and read the model again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from audit.attacks import AttackedModel, AttackInput
from audit.models.loading import RunningModel
from audit.questions.conditions import Condition
from audit.unlearning.fine_tuning import preserved

Edit = Callable[[Tensor, int], Tensor]
"""A matrix and its number among the model's -> what replaces it."""


def edited(given: AttackInput, attack: str, edits: Mapping[str, Edit], seed: int = 0) -> Iterator[AttackedModel]:
    """One condition for each edit, in which the facts are read. A dose is always applied to the original weights.

    One copy of the matrices is in memory.

    Args:
        edits: dose -> edit.
        seed: of the edits' random draws.
    """
    items = given.items.facts()
    if not (items.groups or items.written):
        return
    conditions = {dose: Condition(attack, dose, seed) for dose in edits}
    if given.model is None:
        yield from (AttackedModel(condition, items) for condition in conditions.values())
        return
    matrices = block_matrices(given.model)
    with preserved(given.model, matrices) as originals:
        for dose, edit in edits.items():
            if conditions[dose] not in given.done:
                with torch.no_grad():
                    for number, (matrix, original) in enumerate(zip(matrices, originals, strict=True)):
                        matrix.copy_(edit(original, number))
            yield AttackedModel(conditions[dose], items, given.model)


def block_matrices(model: RunningModel) -> list[nn.Parameter]:
    """The parameters of the blocks that are matrices: not embedding, positions, head, norms and biases."""
    architecture = model.architecture
    blocks = tuple(f"{architecture.block_module.format(layer=layer)}." for layer in range(architecture.n_layers))
    named = model.model.named_parameters()
    return [parameter for name, parameter in named if parameter.dim() > 1 and name.startswith(blocks)]
