"""Needle: train only the chosen value vectors, with NPO and a retain term (the oracle baseline of arXiv 2406.11614).

Nothing below the lowest chosen layer changes, so the residual stream that enters this layer is read once, and each step
runs only the layers above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audit.interventions import Change, EditInputs, Rows, apply, cosines, places, stored_rows
from audit.models.hooks import BlockInputs, adding_to_value_vectors, recording_block_inputs, starting_at
from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, answer_logprobs
from audit.progress import SILENT, Progress
from audit.unlearning.methods.npo import NPOSettings, forget_loss
from audit.unlearning.objective import Objective
from audit.unlearning.training import Record, minimise, prepare, trainable, unused
from concepts.neuron import Neuron

TITLE = "Chosen value vectors trained alone, with negative preference optimization"
DOSES = (0.25, 0.5, 1.0)
DRAWS = 1
TRAINS = True


@dataclass(frozen=True)
class NeedleSettings(NPOSettings):
    """Settings of NPO with defaults for a few value vectors."""

    steps: int = 120
    learning_rate: float = 3e-3
    retain_weight: float = 50.0
    retain_batch: int = 32
    lora_rank: int = unused(0)


def target(model: RunningModel, neurons: Sequence[Neuron], inputs: EditInputs) -> Change:
    """The vectors trained from zero.

    Raises:
        AuditError, ModelError: see ``edit``.
    """
    settings = NeedleSettings(seed=inputs.seed)
    change, _ = train(model, neurons, inputs.forget, inputs.retain, settings, inputs.progress, erase=True)
    return change


def edit(
    model: RunningModel,
    neurons: Sequence[Neuron],
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: NPOSettings = NeedleSettings(),
    progress: Progress = SILENT,
    erase: bool = False,
) -> Record:
    """Write the trained vectors into ``model``; every other weight keeps its bits.

    Raises:
        AuditError: see ``interventions.by_layer`` and ``training.prepare``.
        ModelError: training diverged.
    """
    before = stored_rows(model, neurons)
    change, trajectory = train(model, neurons, forget, retain, settings, progress, erase)
    apply(model, change)
    return Record(
        method="needle",
        settings={**settings.as_json(), "erase": erase},
        examples={"forget": len(forget), "retain": len(retain)},
        trajectory=trajectory,
        changed={
            "value_vectors": places(change),
            "cosines": cosines(*(torch.cat([rows.values for rows in each.values()]) for each in (before, change))),
        },
    )


def train(
    model: RunningModel,
    neurons: Sequence[Neuron],
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: NPOSettings,
    progress: Progress = SILENT,
    erase: bool = False,
) -> tuple[Change, tuple[Mapping[str, float], ...]]:
    """The value vectors of ``neurons`` after training, and the numbers recorded at each step.

    Args:
        erase: start from zero instead of from the stored vectors. NPO's reference is the unedited model either way.

    Raises:
        AuditError: see ``interventions.by_layer`` and ``training.prepare``.
        ModelError: training diverged.
    """
    before, loss = stored_rows(model, neurons), partial(forget_loss, beta=settings.beta)
    answers, held = prepare(model, forget, retain, settings.retain_weight > 0)
    changes = {layer: nn.Parameter(torch.zeros_like(rows.values)) for layer, rows in before.items()}
    upper = UpperLayers(model, lowest=min(before))
    deltas = {layer: (rows.neurons, changes[layer]) for layer, rows in before.items()}
    with trainable(model.model, every=False), adding_to_value_vectors(model, deltas):
        objective = Objective.start(loss, upper.forward, [*zip(answers)], held, settings, progress)
        if erase:
            for layer, rows in before.items():
                changes[layer].data.copy_(-rows.values)
        text = f"Training {len(neurons)} value vectors"
        trajectory = minimise(changes.values(), objective.batches, objective.step, settings, progress, text)
    after = {layer: Rows(rows.neurons, rows.values + changes[layer].detach()) for layer, rows in before.items()}
    return after, trajectory


@dataclass
class UpperLayers:
    """A model that keeps, for each example, the residual stream entering layer ``lowest``, and starts there.

    Wrong if anything below ``lowest`` changes.
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
