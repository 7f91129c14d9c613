"""Needle: train only the chosen value vectors, with NPO and a retain term (the oracle baseline of arXiv 2406.11614).

Everything below the lowest chosen layer stays as it is, so the residual stream that enters this layer is read once and
every step runs the layers above alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audit.interventions import Change, Place, Rows, Setting, apply, cosines, places, stored_rows
from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, answer_logprobs
from audit.progress import SILENT, Progress
from audit.unlearning.methods.npo import forget_loss
from audit.unlearning.objective import Objective
from audit.unlearning.training import Record, Settings, minimise, prepare, trainable

TITLE = "Chosen value vectors trained alone, with negative preference optimization"
DOSES = (0.25, 0.5, 1.0)
TRAINS = True
TRAINING: Final = Settings(steps=120, learning_rate=3e-3, retain_weight=50.0, retain_batch=32)


def target(model: RunningModel, vectors: Sequence[Place], setting: Setting) -> Change:
    """The vectors trained from zero.

    Raises:
        AuditError: as ``edit``.
    """
    settings = replace(TRAINING, seed=setting.seed)
    change, _ = train(model, vectors, setting.forget, setting.retain, settings, setting.progress, erase=True)
    return change


def edit(
    model: RunningModel,
    vectors: Sequence[Place],
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
    vectors: Sequence[Place],
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
    with trainable(model.model, every=False), adding(model, before, changes), upper.bypassing():
        objective = Objective.start(forget_loss, upper.forward, [*zip(answers)], held, settings, progress)
        if erase:
            for layer, rows in before.items():
                changes[layer].data.copy_(-rows.values)
        text = f"Training {len(vectors)} value vectors"
        trajectory = minimise(changes.values(), objective.step, settings, progress, text)
    after = {layer: Rows(rows.neurons, rows.values + changes[layer].detach()) for layer, rows in before.items()}
    return after, trajectory


@contextmanager
def adding(model: RunningModel, chosen: Change, changes: Mapping[int, Tensor]) -> Iterator[None]:
    """Run as if ``changes[layer]`` ``[n, d_model]`` were added to the value vectors ``chosen[layer]``."""

    def hook(layer: int) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + inputs[0][..., list(chosen[layer].neurons)] @ changes[layer].to(output.device, output.dtype)

        return add

    with ExitStack() as stack:
        for layer in chosen:
            module = model.model.get_submodule(model.architecture.out_module.format(layer=layer))
            stack.callback(module.register_forward_hook(hook(layer)).remove)
        yield


@dataclass
class UpperLayers:
    """A model that remembers, for each example, the residual stream entering layer ``lowest``, and starts there.

    Valid only while nothing below ``lowest`` changes.
    """

    model: RunningModel
    lowest: int
    _known: dict[int, Float[Tensor, "length d_model"]] = field(default_factory=dict)
    _row: Pack | None = None
    _blocks_give_tuples: bool = False

    def forward(self, row: Pack) -> Float[Tensor, "m d_vocab"]:
        """``answer_logprobs`` of ``row``, from ``lowest`` upwards where all its examples are known."""
        self._row = row
        return answer_logprobs(self.model, row)

    @contextmanager
    def bypassing(self) -> Iterator[None]:
        """Blocks below ``lowest`` pass their input on unread while the row is known; all is undone afterwards."""
        block = self.model.architecture.block_module
        lower = [self.model.model.get_submodule(block.format(layer=layer)) for layer in range(self.lowest)]
        entered = self.model.model.get_submodule(block.format(layer=self.lowest))
        with ExitStack() as stack:
            stack.callback(entered.register_forward_pre_hook(self._resume).remove)
            for module in lower:
                module.forward = self._skipping(module.forward)
                stack.callback(delattr, module, "forward")  # the class's own method shows again
            yield

    def _skipping(self, forward: Any) -> Any:
        def skip_known(hidden: Tensor, *arguments: Any, **options: Any) -> Any:
            if self._is_known:
                return (hidden, None) if self._blocks_give_tuples else hidden
            output = forward(hidden, *arguments, **options)
            self._blocks_give_tuples = isinstance(output, tuple)  # with attention's weights, if anything
            return output

        return skip_known

    @property
    def _is_known(self) -> bool:
        return self._row is not None and all(index in self._known for index in self._row.examples)

    def _resume(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Before block ``lowest``: put in what is known of the row, or keep what came."""
        row, hidden = self._row, inputs[0]
        assert row is not None
        if not self._is_known:
            self._known |= {
                index: hidden[0, path].detach().clone() for index, path in zip(row.examples, row.paths, strict=True)
            }
            return None
        known = torch.empty_like(hidden)
        for index, path in zip(row.examples, row.paths, strict=True):
            known[0, path] = self._known[index]
        return (known, *inputs[1:])
