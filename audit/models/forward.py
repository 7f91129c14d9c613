"""Forward passes over many token sequences at the cost of the positions that are needed, and no more.

Three savings, none of which changes a number beyond rounding: sequences are sorted by length and padded on the right;
what all of them begin with is run once and its keys and values reused; the head is applied only where it is read.
Plain hooks on the modules that the architecture file names take key vectors and residuals out of the same pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch

from audit.errors import ModelError
from audit.models.hooks import by_layer, on_inputs, on_outputs
from audit.models.loading import RunningModel, no_cache, repeated
from audit.progress import SILENT, Progress

LOGITS_AT_ONCE = 2**25
"""Entries of the largest logits tensor, 128 MB in float32; long texts are run in smaller batches."""


@dataclass(frozen=True)
class Row:
    """One sequence. The head is read from position ``last`` (of the prompt) to the last token but one.

    Where nothing follows the prompt, it is read at ``last`` alone.
    """

    ids: tuple[int, ...]
    last: int

    @property
    def positions(self) -> range:
        return range(self.last, max(self.last + 1, len(self.ids) - 1))


@dataclass(frozen=True)
class Batch:
    """What one forward pass gave.

    Attributes:
        rows: index of each row of the batch in the sequence given.
        logits: float32, row by row in the order of ``rows``, each row's positions in turn ``[n_positions, d_vocab]``.
        keys: key vectors at each row's last prompt token ``[n_layers, n_rows, d_mlp]`` float32.
        residual: residual stream after each block at the same token ``[n_layers, n_rows, d_model]`` float32.
    """

    rows: tuple[int, ...]
    logits: torch.Tensor
    keys: torch.Tensor
    residual: torch.Tensor


def run(model: RunningModel, rows: Sequence[Row], batch_size: int = 16, progress: Progress = SILENT) -> Iterator[Batch]:
    """One pass over ``rows``, in batches of similar length.

    Raises:
        ModelError: the model's output is not a finite number.
    """
    shared = shared_prefix([row.ids[: row.last] for row in rows])
    with torch.inference_mode():
        cache = prefix_cache(model, shared)
        done = 0
        for indices in _batches(rows, batch_size, model.architecture.d_vocab):
            yield _forward(model, rows, indices, cache, len(shared))
            done += len(indices)
            progress.step("Reading answers", done, len(rows))


def tokens_run(rows: Sequence[Row]) -> int:
    """Positions that ``run`` computes, padding not counted."""
    shared = len(shared_prefix([row.ids[: row.last] for row in rows]))
    return shared + sum(len(row.ids) - shared for row in rows)


def shared_prefix(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens that all sequences begin with; empty for fewer than two, where nothing would be saved."""
    if len(sequences) < 2:
        return ()
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False))
    return tuple(column[0] for column in alike)


def prefix_cache(model: RunningModel, ids: Sequence[int]) -> Any:
    """Keys and values of ``ids``, batch 1, to start any number of sequences from."""
    cache = no_cache()
    if ids:
        with reading_head_at(model, torch.tensor([0]), torch.tensor([len(ids) - 1])):
            model.model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True)
    return cache


@contextmanager
def reading_head_at(model: RunningModel, rows: torch.Tensor, positions: torch.Tensor) -> Iterator[None]:
    """Let the head see only ``positions[i]`` of ``rows[i]``: its logits become ``[1, n, d_vocab]``."""

    def select(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][rows, positions][None], *args[1:])

    with on_inputs(model.model, {model.architecture.head_module: select}, once=True):
        yield


def padded(model: RunningModel, sequences: Sequence[Sequence[int]], start: int) -> dict[str, torch.Tensor]:
    """Arguments of a forward pass over ``sequences`` after ``start`` positions that are in the cache already."""
    longest = max(len(ids) for ids in sequences)
    input_ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), start + longest, dtype=torch.long)
    for index, ids in enumerate(sequences):
        input_ids[index, : len(ids)] = torch.tensor(ids)
        mask[index, : start + len(ids)] = 1
    position_ids = torch.arange(start, start + longest).expand(len(sequences), -1)
    arguments = {"input_ids": input_ids, "attention_mask": mask, "position_ids": position_ids}
    return {name: tensor.to(model.device) for name, tensor in arguments.items()}


def _batches(rows: Sequence[Row], batch_size: int, d_vocab: int) -> Iterator[list[int]]:
    """Indices of rows of similar length, at most ``batch_size`` and ``LOGITS_AT_ONCE`` together."""
    batch: list[int] = []
    positions = 0
    for index in sorted(range(len(rows)), key=lambda index: len(rows[index].ids)):
        wanted = len(rows[index].positions)
        if batch and (len(batch) == batch_size or (positions + wanted) * d_vocab > LOGITS_AT_ONCE):
            yield batch
            batch, positions = [], 0
        batch.append(index)
        positions += wanted
    if batch:
        yield batch


def _forward(model: RunningModel, rows: Sequence[Row], indices: Sequence[int], cache: Any, start: int) -> Batch:
    chosen = [rows[index] for index in indices]
    wanted = [(number, position - start) for number, row in enumerate(chosen) for position in row.positions]
    where, positions = torch.tensor(wanted).T
    last = torch.tensor([row.last - start for row in chosen])
    arguments = padded(model, [row.ids[start:] for row in chosen], start)
    with reading_head_at(model, where, positions), _last_token_states(model, last) as states:
        output = model.model(**arguments, past_key_values=repeated(cache, len(chosen)), use_cache=True)
    logits = output.logits[0].float()
    if not torch.isfinite(logits).all():
        raise ModelError("the model's output is not a finite number.", hint="Run it with --dtype float32.")
    return Batch(
        rows=tuple(indices),
        logits=logits,
        keys=torch.stack([states.keys[layer] for layer in range(model.architecture.n_layers)]),
        residual=torch.stack([states.residual[layer] for layer in range(model.architecture.n_layers)]),
    )


def expert_keys(experts: Any, states: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Key vectors of a layer of experts ``[n, n_experts * d_expert]``: each scaled as routed, zero where not routed.

    So ``keys @ W_out`` is what the layer writes, as in a dense FFN.

    Args:
        experts: transformers' module of all experts; computing every one is cheap at the few positions read.
        states: what the FFN reads ``[n, d_model]``.
        index, weights: the experts each position is routed to, and with what weight ``[n, n_routed]``.
    """
    gate, up = torch.einsum("nd,efd->nef", states, experts.gate_up_proj).chunk(2, dim=-1)
    routed = states.new_zeros(len(states), len(experts.gate_up_proj)).scatter(1, index, weights.to(states.dtype))
    keys: torch.Tensor = experts.act_fn(gate) * up * routed[..., None]
    return keys.flatten(1)


@contextmanager
def _last_token_states(model: RunningModel, last: torch.Tensor) -> Iterator[_States]:
    """Key vectors and residuals at position ``last[i]`` of row ``i``, from the pass that runs inside."""
    architecture = model.architecture
    states = _States(last)
    keys = states.take_expert_keys if architecture.n_experts else states.take_keys
    layers = range(architecture.n_layers)
    with (
        on_inputs(model.model, by_layer(architecture.out_module, layers, keys), once=True),
        on_outputs(model.model, by_layer(architecture.block_module, layers, states.take_residual), once=True),
    ):
        yield states


class _States:
    """Hooks that keep key vectors and residuals at one position of each row, ``[n_rows, d]`` by layer."""

    def __init__(self, last: torch.Tensor) -> None:
        self.last = last
        self.rows = torch.arange(len(last))
        self.keys: dict[int, torch.Tensor] = {}
        self.residual: dict[int, torch.Tensor] = {}

    def take_keys(self, layer: int, module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.keys[layer] = self._at_last(args[0])

    def take_expert_keys(self, layer: int, module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        places = self.rows * (len(args[0]) // len(self.last)) + self.last
        self.keys[layer] = expert_keys(module, *(arg[places] for arg in args)).float().cpu()

    def take_residual(self, layer: int, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.residual[layer] = self._at_last(output[0] if isinstance(output, tuple) else output)

    def _at_last(self, states: torch.Tensor) -> torch.Tensor:
        states = states.reshape(len(self.last), -1, states.shape[-1])  # OPT's FFN sees all rows as one
        return states[self.rows, self.last].float().cpu()
