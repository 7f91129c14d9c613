"""Which prefixes are run once, and which rows in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import audit.models.forward
from audit.models.forward import Layout, Row, parts, prefix_groups, shared_prefix, tokens_run
from audit.models.key_value_cache import no_cache
from audit.models.loading import RunningModel


def test_the_shared_prefix_of_sequences() -> None:
    assert shared_prefix([(1, 2, 3), (1, 2, 4), (1, 2)]) == (1, 2)
    assert shared_prefix([(1, 2), (3,)]) == ()
    assert shared_prefix([(1, 2)]) == ()
    assert tokens_run([Row((1, 2, 3, 9), 2), Row((1, 2, 4), 2)]) == 2 + 2 + 1


def test_a_sequence_that_shares_little_does_not_shorten_the_prefix_of_the_others() -> None:
    examples = tuple(range(100, 160))
    alike = [(*examples, number) for number in range(5)]
    (group, rest) = prefix_groups([(100, 7, 7), *alike])
    assert (group.prefix, group.members) == (examples, (1, 2, 3, 4, 5))
    assert (rest.prefix, rest.members) == ((), (0,))
    rows = [Row((100, 7, 7), 2), *(Row((*ids, 1), 60) for ids in alike)]
    assert tokens_run(rows) == 3 + 60 + 5 * 2


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), max_size=12),
    st.integers(1, 12),
)
def test_every_sequence_is_in_one_group_and_begins_with_its_prefix(
    sequences: list[tuple[int, ...]], worth: int
) -> None:
    groups = prefix_groups(sequences, worth)
    assert sorted(index for group in groups for index in group.members) == list(range(len(sequences)))
    for group in groups:
        assert all(sequences[index][: len(group.prefix)] == group.prefix for index in group.members)
    for group in groups[:-1]:
        assert group.saved >= worth
    assert sum(group.saved for group in groups) >= len(shared_prefix(sequences)) * (len(sequences) - len(groups))


def test_nested_prefixes_may_be_many() -> None:
    sequences = [(1,) * length for length in range(1, 3000)]
    assert sum(len(group.members) for group in prefix_groups(sequences)) == len(sequences)


Sequences = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=9).map(tuple), min_size=1, max_size=12)


@given(Sequences, st.integers(1, 20), st.sampled_from([None, 4, 100]))
def test_every_row_is_in_one_part_and_no_tree_is_too_large(
    sequences: list[tuple[int, ...]], limit: int, window: int | None
) -> None:
    model = cast("RunningModel", Outline(window=window))
    rows = [Row(ids, len(ids) - 1) for ids in sequences]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit.models.forward, "TREE_ON_CPU", limit)
        found = list(parts(model, rows, 0, batch_size=2))
    assert sorted(index for part in found for index in part) == list(range(len(rows)))
    for part in (each for each in found if len(each) > 1):
        layout = Layout.of(model, [rows[index] for index in part], 0)
        size = layout.arguments["input_ids"].numel()
        if layout.n_rows == 1:
            beginnings = {sequences[index][:end] for index in part for end in range(1, len(sequences[index]) + 1)}
            assert size == len(beginnings) <= limit
        else:
            assert window is not None
            assert max(map(len, sequences)) > window


def test_rows_are_continued_from_a_tree_as_from_padded_rows() -> None:
    rows = [Row((1, 2, 3), 2), Row((1, 2, 3, 4), 2), Row((1, 5), 1)]
    tree = Layout.of(cast("RunningModel", Outline()), rows, 0)
    flat = Layout.of(cast("RunningModel", Outline(alibi=True)), rows, 0)
    assert (tree.n_rows, flat.n_rows) == (1, 3)
    assert tree.arguments["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    for layout in (tree, flat):
        states = layout.arguments["input_ids"].float()[:, None, :, None]
        cache = no_cache()
        cache.update(states, -states, 0)  # type: ignore[attr-defined]
        kept, mask = layout.continued(cache, [0, 2])
        assert (mask * kept.layers[0].keys[:, 0, :, 0]).tolist() == [[1, 2, 3], [1, 5, 0]]
        assert (mask * kept.layers[0].values[:, 0, :, 0]).tolist() == [[-1, -2, -3], [-1, -5, 0]]
        assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]


@dataclass(frozen=True)
class Outline:
    """What a layout needs to know of a model."""

    window: int | None = None
    alibi: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    model: torch.nn.Module = field(default_factory=lambda: torch.nn.Linear(1, 1))
    architecture: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(d_vocab=8))
