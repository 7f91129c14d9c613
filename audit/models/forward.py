"""Forward passes over many token sequences that compute only the positions that are read.

Three savings, none of which changes a number beyond rounding: sequences are sorted by length and padded on the right; a
prefix that many of them share is run once and its keys and values are reused; the head is applied at the positions that
are read.
Key vectors and residuals are taken from the same pass by hooks on the modules that the architecture file names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from audit.errors import ModelError
from audit.models.hooks import by_layer, on_inputs, on_outputs
from audit.models.loading import KeyValueCache, RunningModel, no_cache, repeated
from audit.progress import SILENT, Progress

LOGITS_AT_ONCE = 2**25
"""Entries of the largest logits tensor, 128 MB in float32; long texts are run in smaller batches."""
TOKENS_AT_ONCE = 1024
"""Batches are larger than ``batch_size`` as long as they have no more tokens than this: a pass over 200 tokens takes a
quarter longer for each of them."""
A_PASS, A_PASS_ON_CPU = 2048, 50
"""Tokens whose time a further pass costs: that of starting kernels on a GPU, of reading the weights on a CPU."""
WORTH_A_PASS = 128
"""Tokens that a shared prefix must save: the pass over it takes the time of as many."""


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
    """What is read from one forward pass.

    Attributes:
        rows: index of each row of the batch in the sequence given.
        logits: row by row in the order of ``rows``, each row's positions in turn.
        keys: key vectors at each row's last prompt token.
        residual: residual stream after each block at the same token.
    """

    rows: tuple[int, ...]
    logits: Float[Tensor, "n_positions d_vocab"]
    keys: Float[Tensor, "n_layers n_rows d_mlp"]
    residual: Float[Tensor, "n_layers n_rows d_model"]


def run(model: RunningModel, rows: Sequence[Row], batch_size: int = 16, progress: Progress = SILENT) -> Iterator[Batch]:
    """One pass over ``rows``, in batches of similar length.

    Raises:
        ModelError: the model's output is not a finite number.
    """
    with torch.inference_mode():
        done = 0
        for group in prefix_groups([row.ids[: row.last] for row in rows]):
            cache, start = prefix_cache(model, group.prefix), len(group.prefix)
            for indices in _batches(rows, group.members, start, batch_size, model.architecture.d_vocab):
                yield _forward(model, rows, indices, cache, start)
                done += len(indices)
                progress.step("Reading answers", done, len(rows))


def tokens_run(rows: Sequence[Row]) -> int:
    """Positions that ``run`` computes, padding not counted."""
    saved = sum(group.saved for group in prefix_groups([row.ids[: row.last] for row in rows]))
    return sum(len(row.ids) for row in rows) - saved


@dataclass(frozen=True)
class PrefixGroup:
    """Some of many sequences, by index, and the tokens that all of them begin with."""

    prefix: tuple[int, ...]
    members: tuple[int, ...]

    @property
    def saved(self) -> int:
        """Tokens that need not be run."""
        return len(self.prefix) * (len(self.members) - 1)


def prefix_groups(sequences: Sequence[tuple[int, ...]], worth: int = WORTH_A_PASS) -> list[PrefixGroup]:
    """``sequences`` grouped by a prefix that is worth a pass of its own; the last group has the others.

    Args:
        worth: tokens that a group must save against being run with the sequences that share less.
    """
    groups: list[list[int]] = []
    open_: list[tuple[int, list[int]]] = [(0, [])]  # prefixes of the current sequence: their lengths, and members

    def close(depth: int) -> None:
        """Close the prefixes longer than ``depth``; a group that is not worth a pass joins the next shorter prefix."""
        while open_[-1][0] > depth:
            length, members = open_.pop()
            shorter = max(depth, open_[-1][0])
            if (len(members) - 1) * (length - shorter) >= worth:
                groups.append(members)
                members = []
            if open_[-1][0] == shorter:
                open_[-1][1].extend(members)
            else:
                open_.append((shorter, members))

    before: tuple[int, ...] = ()
    for index in sorted(range(len(sequences)), key=lambda index: sequences[index]):
        close(len(shared_prefix([before, sequences[index]])))
        if open_[-1][0] < len(sequences[index]):
            open_.append((len(sequences[index]), []))
        open_[-1][1].append(index)
        before = sequences[index]
    close(0)
    groups.append(open_[0][1])
    return [
        PrefixGroup(shared_prefix([sequences[index] for index in group]), tuple(sorted(group)))
        for group in groups
        if group
    ]


def shared_prefix(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens that all sequences begin with; empty for fewer than two, where nothing would be saved."""
    if len(sequences) < 2:
        return ()
    equal = takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False))
    return tuple(column[0] for column in equal)


def prefix_cache(model: RunningModel, ids: Sequence[int]) -> KeyValueCache:
    """Keys and values of ``ids``, batch 1, from which any number of sequences can be continued."""
    cache = no_cache()
    if ids:
        with reading_head_at(model, torch.tensor([0]), torch.tensor([len(ids) - 1])):
            model.model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True)
    return cache


def a_pass(model: RunningModel) -> int:
    """Tokens whose time a further pass of ``model`` costs."""
    return A_PASS_ON_CPU if model.device.type == "cpu" else A_PASS


def passes(rows: Sequence[int], length: Callable[[int], int], cost: int) -> list[list[int]]:
    """``rows`` in the passes that take the least time, where each row is padded to the longest of its pass.

    Args:
        cost: of a further pass, in tokens.
    """
    order = sorted(rows, key=length)
    lengths = [length(row) for row in order]
    ends = [end for end in range(1, len(order)) if lengths[end] > lengths[end - 1]] + [len(order)]
    least = {0: (0, 0)}  # so many of the shortest rows -> the tokens of the best passes over them, begin of the last
    for end in ends:
        longest = lengths[end - 1]
        least[end] = min((tokens + cost + (end - begin) * longest, begin) for begin, (tokens, _) in least.items())
    chosen: list[list[int]] = []
    end = len(order)
    while end:
        begin = least[end][1]
        chosen.append(order[begin:end])
        end = begin
    return chosen[::-1]


def reading_head_at(
    model: RunningModel, rows: Int[Tensor, " n"], positions: Int[Tensor, " n"]
) -> AbstractContextManager[object]:
    """Apply the head only at ``positions[i]`` of ``rows[i]``, in one pass: its logits become ``[1, n, d_vocab]``."""

    def select(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][rows, positions][None], *args[1:])

    return on_inputs(model.model, {model.architecture.head_module: select}, once=True)


def padded(model: RunningModel, sequences: Sequence[Sequence[int]], start: int) -> dict[str, Int[Tensor, "n _"]]:
    """Arguments of a forward pass over ``sequences``, padded on the right.

    Args:
        start: positions that are in the cache already; the attention mask covers them too.
    """
    longest = max(len(ids) for ids in sequences)
    input_ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), start + longest, dtype=torch.long)
    for index, ids in enumerate(sequences):
        input_ids[index, : len(ids)] = torch.tensor(ids)
        mask[index, : start + len(ids)] = 1
    position_ids = torch.arange(start, start + longest).expand(len(sequences), -1)
    arguments = {"input_ids": input_ids, "attention_mask": mask, "position_ids": position_ids}
    return {name: tensor.to(model.device) for name, tensor in arguments.items()}


def expert_keys(
    experts: nn.Module,
    states: Float[Tensor, "n d_model"],
    index: Int[Tensor, "n n_routed"],
    weights: Float[Tensor, "n n_routed"],
) -> Float[Tensor, "n d_mlp"]:
    """Key vectors of a layer of experts, one expert's after another's: scaled as routed, zero where not routed.

    So ``keys @ W_out`` is what the layer writes, as in a dense FFN.

    Args:
        experts: transformers' module of all experts; computing each of them is cheap at the few positions read.
        states: the FFN's inputs.
        index, weights: the experts that each position is routed to, and their weights.
    """
    gate_up_proj: Any = experts.gate_up_proj
    activation: Any = experts.act_fn
    gate, up = torch.einsum("nd,efd->nef", states, gate_up_proj).chunk(2, dim=-1)
    routed = states.new_zeros(len(states), len(gate_up_proj)).scatter(1, index, weights.to(states.dtype))
    keys: Tensor = activation(gate) * up * routed[..., None]
    return keys.flatten(1)


def _batches(
    rows: Sequence[Row], members: Sequence[int], start: int, batch_size: int, d_vocab: int
) -> Iterator[list[int]]:
    """Members of similar length; ``batch_size`` or ``TOKENS_AT_ONCE`` together, and at most ``LOGITS_AT_ONCE``."""
    batch: list[int] = []
    n_positions = 0
    for index in sorted(members, key=lambda index: len(rows[index].ids)):
        more = len(rows[index].positions)
        is_full = len(batch) >= max(batch_size, TOKENS_AT_ONCE // (len(rows[index].ids) - start))
        if batch and (is_full or (n_positions + more) * d_vocab > LOGITS_AT_ONCE):
            yield batch
            batch, n_positions = [], 0
        batch.append(index)
        n_positions += more
    if batch:
        yield batch


def _forward(
    model: RunningModel, rows: Sequence[Row], indices: Sequence[int], cache: KeyValueCache, start: int
) -> Batch:
    """The rows at ``indices``, whose first ``start`` tokens are in the cache."""
    chosen = [rows[index] for index in indices]
    places = [(number, position - start) for number, row in enumerate(chosen) for position in row.positions]
    head_rows, head_positions = torch.tensor(places).T
    last = torch.tensor([row.last - start for row in chosen])
    arguments = padded(model, [row.ids[start:] for row in chosen], start)
    with reading_head_at(model, head_rows, head_positions), states_at(model, last) as states:
        output = model.model(**arguments, past_key_values=repeated(cache, len(chosen)), use_cache=True)
    logits = finite(output.logits[0].float())
    return states.batch(indices, logits)


def finite(logits: Tensor) -> Tensor:
    """``logits``, checked.

    Raises:
        ModelError: an entry is not a finite number.
    """
    if not torch.isfinite(logits).all():
        raise ModelError("the model's output is not a finite number.", hint="Run it with --dtype float32.")
    return logits


class States:
    """Hooks that keep key vectors and residuals at one position of each row, ``[n_rows, d]`` float32 by layer."""

    def __init__(self, last: Int[Tensor, " n_rows"]) -> None:
        self.last = last
        self.rows = torch.arange(len(last))
        self.keys: dict[int, Tensor] = {}
        self.residual: dict[int, Tensor] = {}

    def take_keys(self, layer: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.keys[layer] = self._at_last(args[0])

    def take_expert_keys(self, layer: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        places = self.rows * (len(args[0]) // len(self.last)) + self.last
        states, index, weights = (arg[places] for arg in args)
        self.keys[layer] = expert_keys(module, states, index, weights).float().cpu()

    def take_residual(self, layer: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.residual[layer] = self._at_last(output[0] if isinstance(output, tuple) else output)

    def batch(self, rows: Sequence[int], logits: Float[Tensor, "n_positions d_vocab"]) -> Batch:
        """What the pass read, of ``rows``."""
        layers = sorted(self.residual)
        return Batch(
            rows=tuple(rows),
            logits=logits,
            keys=torch.stack([self.keys[layer] for layer in layers]),
            residual=torch.stack([self.residual[layer] for layer in layers]),
        )

    def _at_last(self, states: Tensor) -> Float[Tensor, "n_rows d"]:
        states = states.reshape(len(self.last), -1, states.shape[-1])  # OPT's FFN sees all rows as one
        return states[self.rows, self.last].float().cpu()


@contextmanager
def states_at(model: RunningModel, last: Int[Tensor, " n_rows"]) -> Iterator[States]:
    """Key vectors and residuals at position ``last[i]`` of row ``i``, from the one pass that runs inside."""
    architecture = model.architecture
    states = States(last)
    take_keys = states.take_expert_keys if architecture.n_experts else states.take_keys
    layers = range(architecture.n_layers)
    with (
        on_inputs(model.model, by_layer(architecture.out_module, layers, take_keys), once=True),
        on_outputs(model.model, by_layer(architecture.block_module, layers, states.take_residual), once=True),
    ):
        yield states
