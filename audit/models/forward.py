"""Forward passes over many token sequences that compute only the positions that are read.

Three savings, none of which changes a number beyond rounding: a prefix that many sequences share is run once and its
keys and values are reused; the sequences that are continued from it are run as a tree (``token_tree``), where the model
allows that; the head is applied at the positions that are read.
Key vectors and residuals are taken from the same pass by hooks on the modules that the architecture file names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from audit.errors import ModelError
from audit.models.hooks import by_layer, on_inputs, on_outputs
from audit.models.key_value_cache import KeyValueCache, beginning, gathered, n_bytes, no_cache, repeated
from audit.models.loading import RunningModel
from audit.models.token_tree import token_tree
from audit.progress import SILENT, Progress

LOGITS_AT_ONCE = 2**25
"""Entries of the largest logits tensor, 128 MB in float32; long texts are run in smaller batches."""
TREE, TREE_ON_CPU = 2048, 384
"""Tokens of a tree: in a larger one more is shared, but more attention is computed and masked away. A GPU waits for its
kernels to start, not for the tokens."""
PADDED = 1024
"""Batches of padded rows are larger than ``batch_size`` as long as they have no more tokens than this: a pass over 200
tokens takes a quarter longer for each of them."""
PREFIX_BYTES = 2**28
"""Memory for the keys and values of prefixes that may be needed again."""
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


def run(
    model: RunningModel,
    rows: Sequence[Row],
    batch_size: int = 16,
    progress: Progress = SILENT,
    prefixes: Prefixes | None = None,
) -> Iterator[Batch]:
    """One pass over ``rows``, in batches.

    Args:
        prefixes: those that were run on this model already.

    Raises:
        ModelError: the model's output is not a finite number.
    """
    prefixes = prefixes or Prefixes(model)
    with torch.inference_mode():
        done = 0
        for group in prefix_groups([row.ids[: row.last] for row in rows]):
            cache, start = prefixes.cache(group.prefix), len(group.prefix)
            members = [rows[index] for index in group.members]
            for part in parts(model, members, start, batch_size):
                chosen = [members[number] for number in part]
                layout = Layout.of(model, chosen, start)
                with states_at(model, layout.last) as states:
                    logits = layout.logits(model, repeated(cache, layout.n_rows))
                yield states.batch([group.members[number] for number in part], finite(logits.float()))
                done += len(part)
                progress.step("Reading answers", done, len(rows))


def tokens_run(rows: Sequence[Row]) -> int:
    """Positions that ``run`` computes where a group of rows is one tree."""
    tokens = 0
    for group in prefix_groups([row.ids[: row.last] for row in rows]):
        before: tuple[int, ...] = ()
        for ids in sorted(rows[index].ids for index in group.members):
            tokens += len(ids) - len(shared_prefix([before, ids]))
            before = ids
    return tokens


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


def prefix_cache(model: RunningModel, ids: Sequence[int], begun: KeyValueCache | None = None) -> KeyValueCache:
    """Keys and values of ``ids``, batch 1, from which any number of sequences can be continued.

    Args:
        begun: those of some tokens before ``ids``, to which they are added.
    """
    cache = begun or no_cache()
    if ids:
        with reading_head_at(model, torch.tensor([len(ids) - 1])):
            model.model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True)
    return cache


class Prefixes:
    """Keys and values of prefixes that were run on one model: what two of them begin with is run once.

    The latest ones are kept, up to ``PREFIX_BYTES``.
    """

    def __init__(self, model: RunningModel) -> None:
        self.model = model
        self.known: dict[tuple[int, ...], KeyValueCache] = {}

    def cache(self, ids: tuple[int, ...]) -> KeyValueCache:
        """Those of ``ids``, batch 1; not to be changed."""
        if not ids:
            return no_cache()
        if ids not in self.known:
            nearest = max(self.known, key=lambda known: len(shared_prefix([known, ids])), default=())
            start = len(shared_prefix([nearest, ids]))
            begun = beginning(self.known[nearest], start) if start else None
            self.known[ids] = prefix_cache(self.model, ids[start:], begun)
            while sum(map(n_bytes, self.known.values())) > PREFIX_BYTES and len(self.known) > 1:
                del self.known[next(iter(self.known))]
        return self.known[ids]


def parts(model: RunningModel, rows: Sequence[Row], start: int, batch_size: int = 16) -> Iterator[list[int]]:
    """Indices of ``rows`` for one pass each: a tree, or padded rows of similar length where that is not possible.

    Args:
        start: tokens that all rows begin with and that need not be run.
    """
    limit = TREE_ON_CPU if model.device.type == "cpu" else TREE
    as_tree = _can_be_a_tree(model, rows)
    order = sorted(range(len(rows)), key=lambda index: (0 if as_tree else len(rows[index].ids), rows[index].ids))
    part: list[int] = []
    tokens = n_positions = 0
    for index in order:
        ids, more = rows[index].ids, len(rows[index].positions)
        shared = len(shared_prefix([rows[part[-1]].ids, ids])) if part and as_tree else start
        is_full = tokens + len(ids) - shared > limit
        if not as_tree:
            is_full = len(part) >= max(batch_size, PADDED // (len(ids) - start))
        if part and (is_full or (n_positions + more) * model.architecture.d_vocab > LOGITS_AT_ONCE):
            yield part
            part, tokens, n_positions, shared = [], 0, 0, start
        part.append(index)
        tokens += len(ids) - shared
        n_positions += more
    if part:
        yield part


def _can_be_a_tree(model: RunningModel, rows: Sequence[Row]) -> bool:
    """Whether no layer needs more than a mask to tell what a token may look at."""
    longest = max((len(row.ids) for row in rows), default=0)
    return not model.alibi and (model.window is None or longest <= model.window)


def reading_head_at(model: RunningModel, places: Int[Tensor, " n"]) -> AbstractContextManager[object]:
    """Apply the head only at ``places`` in one pass, counted through all its rows: its logits become ``[1, n, _]``."""

    def select(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].flatten(0, 1)[places][None], *args[1:])

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


def finite(logits: Tensor) -> Tensor:
    """``logits``, checked.

    Raises:
        ModelError: an entry is not a finite number.
    """
    if not torch.isfinite(logits).all():
        raise ModelError("the model's output is not a finite number.", hint="Run it with --dtype float32.")
    return logits


@dataclass(frozen=True)
class Layout:
    """Some rows in one pass, after a prefix whose keys and values are in the cache.

    Attributes:
        arguments: of the pass: one row that is a tree, or as many padded rows as there are.
        paths: for each row, the places of its tokens after the prefix, counted through all rows of the pass.
        start: tokens of the prefix.
    """

    rows: Sequence[Row]
    arguments: Mapping[str, Tensor]
    paths: Sequence[Int[Tensor, " _"]]
    start: int

    @classmethod
    def of(cls, model: RunningModel, rows: Sequence[Row], start: int) -> Layout:
        """One part (``parts``) of the rows that begin with a prefix of ``start`` tokens."""
        sequences = [row.ids[start:] for row in rows]
        if len(rows) == 1 or not _can_be_a_tree(model, rows):
            arguments = padded(model, sequences, start)
            length = arguments["input_ids"].shape[1]
            paths = [number * length + torch.arange(len(ids)) for number, ids in enumerate(sequences)]
            return cls(rows, arguments, paths, start)
        tree = token_tree(sequences)
        mask = torch.nn.functional.pad(tree.mask, (start, 0))
        arguments = {
            "input_ids": tree.ids.to(model.device),
            "attention_mask": mask.to(model.device, next(model.model.parameters()).dtype),
            "position_ids": (tree.positions + start).to(model.device),
        }
        return cls(rows, arguments, tree.paths, start)

    @property
    def n_rows(self) -> int:
        """Of the pass."""
        return len(self.arguments["input_ids"])

    @property
    def last(self) -> Int[Tensor, " n"]:
        """Place of the last prompt token of each row."""
        return torch.stack([path[row.last - self.start] for row, path in zip(self.rows, self.paths, strict=True)])

    def logits(self, model: RunningModel, cache: KeyValueCache) -> Float[Tensor, "n_positions d_vocab"]:
        """Run the pass; the logits row by row, each row's positions in turn.

        Args:
            cache: keys and values of the prefix, in ``n_rows`` rows; those of the pass are added.
        """
        read = [
            path[row.positions.start - self.start : row.positions.stop - self.start]
            for row, path in zip(self.rows, self.paths, strict=True)
        ]
        places, where = torch.unique(torch.cat(read), return_inverse=True)
        with reading_head_at(model, places):
            logits: Tensor = model.model(**self.arguments, past_key_values=cache, use_cache=True).logits[0]
        return logits[where]

    def continued(self, cache: KeyValueCache, chosen: Sequence[int]) -> tuple[KeyValueCache, Int[Tensor, "n_chosen n"]]:
        """The cache after the pass with one row for each of the ``chosen``, and which of its places hold tokens."""
        device = self.arguments["input_ids"].device
        longest = self.start + max(len(self.paths[number]) for number in chosen)
        length = self.arguments["input_ids"].shape[1]
        rows = torch.tensor([int(self.paths[number][0]) // length for number in chosen], device=device)
        places = torch.arange(longest, device=device).repeat(len(chosen), 1)
        mask = torch.zeros_like(places)
        for place, number in enumerate(chosen):
            path = self.paths[number] % length
            end = self.start + len(path)
            places[place, self.start : end] = self.start + path.to(device)
            mask[place, :end] = 1
        return gathered(cache, rows, places), mask


class States:
    """Hooks that keep key vectors and residuals at some places of a pass, ``[n, d]`` float32 by layer."""

    def __init__(self, places: Int[Tensor, " n"]) -> None:
        self.places = places
        self.keys: dict[int, Tensor] = {}
        self.residual: dict[int, Tensor] = {}

    def take_keys(self, layer: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.keys[layer] = self._there(args[0])

    def take_expert_keys(self, layer: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        states, index, weights = (arg[self.places] for arg in args)
        self.keys[layer] = expert_keys(module, states, index, weights).float().cpu()

    def take_residual(self, layer: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.residual[layer] = self._there(output[0] if isinstance(output, tuple) else output)

    def batch(self, rows: Sequence[int], logits: Float[Tensor, "n_positions d_vocab"]) -> Batch:
        """What the pass read, of ``rows``."""
        layers = sorted(self.residual)
        return Batch(
            rows=tuple(rows),
            logits=logits,
            keys=torch.stack([self.keys[layer] for layer in layers]),
            residual=torch.stack([self.residual[layer] for layer in layers]),
        )

    def _there(self, states: Tensor) -> Float[Tensor, "n d"]:
        return states.reshape(-1, states.shape[-1])[self.places].float().cpu()  # OPT's FFN sees all rows as one


@contextmanager
def states_at(model: RunningModel, places: Int[Tensor, " n"]) -> Iterator[States]:
    """Key vectors and residuals at ``places`` of the one pass that runs inside, counted through all its rows."""
    architecture = model.architecture
    states = States(places)
    take_keys = states.take_expert_keys if architecture.n_experts else states.take_keys
    layers = range(architecture.n_layers)
    with (
        on_inputs(model.model, by_layer(architecture.out_module, layers, take_keys), once=True),
        on_outputs(model.model, by_layer(architecture.block_module, layers, states.take_residual), once=True),
    ):
        yield states
