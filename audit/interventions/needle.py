"""Needle: train only the chosen value vectors, with NPO and a retain term (the oracle baseline of arXiv 2406.11614).

Everything below the lowest chosen layer stays as it is, so the residual stream that enters this layer is read once and
every step runs the layers above alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audit.interventions import Change, EditInputs, Rows, apply, cosines, places, stored_rows
from audit.models.hooks import BlockInputs, adding_to_value_vectors, recording_block_inputs, starting_at
from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, answer_logprobs
from audit.progress import SILENT, Progress
from audit.unlearning.methods.npo import forget_loss
from audit.unlearning.objective import Objective
from audit.unlearning.training import Record, Settings, minimise, prepare, trainable
from concepts.neuron import Neuron

TITLE = "Chosen value vectors trained alone, with negative preference optimization"
DOSES = (0.25, 0.5, 1.0)
DRAWS = 1
TRAINS = True
TRAINING: Final = Settings(steps=120, learning_rate=3e-3, retain_weight=50.0, retain_batch=32)


def target(model: RunningModel, vectors: Sequence[Neuron], inputs: EditInputs) -> Change:
    """The vectors trained from zero.

    Raises:
        AuditError: as ``edit``.
    """
    settings = replace(TRAINING, seed=inputs.seed)
    change, _ = train(model, vectors, inputs.forget, inputs.retain, settings, inputs.progress, erase=True)
    return change


def edit(
    model: RunningModel,
    vectors: Sequence[Neuron],
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: Settings = Settings(learning_rate=1e-2),
    progress: Progress = SILENT,
    erase: bool = False,
) -> Record:
    """``train``, and the trained vectors written into ``model``; every other weight keeps its bits.

    Raises:
        AuditError: see ``interventions.by_layer`` and ``training.prepare``.
        ModelError: training diverged.
    """
    before = stored_rows(model, vectors)
    change, trajectory = train(model, vectors, forget, retain, settings, progress, erase)
    apply(model, change)
    return Record(
        method="needle",
        settings={**settings.as_json(), "erase": erase},
        examples={"forget": len(forget), "retain": len(retain)},
        trajectory=trajectory,
        changed={
            "value_vectors": places(change),
            "cosines": cosines(*(torch.cat([rows.values for rows in found.values()]) for found in (before, change))),
        },
    )


def train(
    model: RunningModel,
    vectors: Sequence[Neuron],
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: Settings,
    progress: Progress = SILENT,
    erase: bool = False,
) -> tuple[Change, tuple[Mapping[str, float], ...]]:
    """What the value vectors ``vectors`` become when they alone are trained, and the course of it.

    Args:
        erase: start from zero instead of from the vectors, so that nothing of them is left to begin with. The
            answers' reference is the untouched model either way.

    Raises:
        AuditError: see ``interventions.by_layer`` and ``training.prepare``.
        ModelError: training diverged.
    """
    before = stored_rows(model, vectors)
    answers, held = prepare(model.tokenizer, forget, retain, settings)
    changes = {layer: nn.Parameter(torch.zeros_like(rows.values)) for layer, rows in before.items()}
    upper = UpperLayers(model, lowest=min(before))
    deltas = {layer: (rows.neurons, changes[layer]) for layer, rows in before.items()}
    with trainable(model.model, every=False), adding_to_value_vectors(model, deltas):
        objective = Objective.start(forget_loss, upper.forward, [*zip(answers)], held, settings, progress)
        if erase:
            for layer, rows in before.items():
                changes[layer].data.copy_(-rows.values)
        text = f"Training {len(vectors)} value vectors"
        trajectory = minimise(changes.values(), objective.step, settings, progress, text)
    after = {layer: Rows(rows.neurons, rows.values + changes[layer].detach()) for layer, rows in before.items()}
    return after, trajectory


@dataclass
class UpperLayers:
    """A model that remembers, for each example, the residual stream entering layer ``lowest``, and starts there.

    Valid only while nothing below ``lowest`` changes.
    """

    model: RunningModel
    lowest: int
    _known: dict[int, Float[Tensor, "length d_model"]] = field(default_factory=dict)
    _blocks_give_tuples: bool = False

    def forward(self, row: Pack) -> Float[Tensor, "m d_vocab"]:
        """``answer_logprobs`` of ``row``, from ``lowest`` upwards where all its examples are known."""
        if all(index in self._known for index in row.examples):
            with starting_at(self.model, self.lowest, self._entering(row)):
                return answer_logprobs(self.model, row)
        with recording_block_inputs(self.model, [self.lowest]) as recorded:
            logprobs = answer_logprobs(self.model, row)
        entering = recorded.entering[self.lowest][0].detach()
        self._known |= {index: entering[path].clone() for index, path in zip(row.examples, row.paths, strict=True)}
        self._blocks_give_tuples = recorded.tuples
        return logprobs

    def _entering(self, row: Pack) -> BlockInputs:
        """What enters ``lowest`` with ``row``, put together from what is known of its examples."""
        first = self._known[row.examples[0]]
        entering = first.new_empty(1, row.ids.shape[1], first.shape[1])
        for index, path in zip(row.examples, row.paths, strict=True):
            entering[0, path] = self._known[index]
        return BlockInputs({self.lowest: entering}, self._blocks_give_tuples)
