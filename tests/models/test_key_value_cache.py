"""The cache grows in place, and holds what transformers' own cache holds."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from audit.models.key_value_cache import ROOM, joined, no_cache, repeated

Action = tuple[str, int]


def states(n_rows: int, n: int, seed: int) -> torch.Tensor:
    return torch.randn(n_rows, 2, n, 3, generator=torch.Generator().manual_seed(seed))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from([1, 1, 1, 3])),
            st.tuples(st.just("repeat"), st.just(2)),
            st.tuples(st.just("select"), st.integers(0, 3)),
            st.tuples(st.just("crop"), st.just(1)),
            st.tuples(st.just("copy"), st.just(0)),
        ),
        max_size=25,
    )
)
def test_whatever_is_done_it_holds_what_transformers_own_holds(actions: list[Action]) -> None:
    caches: list[Any] = [no_cache(), DynamicCache()]
    for cache in caches:
        cache.update(states(1, 4, 0), states(1, 4, 1), 0)
    for number, action in enumerate(actions):
        if action[0] == "copy":
            caches = [copy.deepcopy(cache) for cache in caches]
        for cache in caches:
            act(cache, action, number)
        own, theirs = (cache.layers[0] for cache in caches)
        assert torch.equal(own.keys, theirs.keys)
        assert torch.equal(own.values, theirs.values)
        assert own.get_seq_length() == theirs.get_seq_length()


def act(cache: Any, action: Action, seed: int) -> None:
    what, by = action
    n_rows, _, n, _ = cache.layers[0].keys.shape
    if what == "add":
        cache.update(states(n_rows, by, 2 * seed), states(n_rows, by, 2 * seed + 1), 0)
    elif what == "repeat" and n_rows < 8:
        cache.batch_repeat_interleave(by)
    elif what == "select":
        cache.batch_select_indices(torch.tensor([by % n_rows]))
    elif what == "crop" and n > 1:
        cache.crop(-by)


def test_further_tokens_are_written_in_place_as_long_as_there_is_room() -> None:
    cache: Any = no_cache()
    cache.update(states(2, 4, 0), states(2, 4, 1), 0)
    places = []
    for number in range(2 * ROOM):
        cache.update(states(2, 1, number), states(2, 1, number), 0)
        places.append(cache.layers[0].keys.data_ptr())
    assert len(set(places)) == 2


def test_a_copy_grows_apart_from_the_original() -> None:
    cache: Any = no_cache()
    cache.update(states(1, 2, 0), states(1, 2, 1), 0)
    cache.update(states(1, 1, 2), states(1, 1, 3), 0)
    before = cache.layers[0].keys.clone()
    other: Any = repeated(cache, 1)
    other.update(states(1, 1, 4), states(1, 1, 5), 0)
    cache.update(states(1, 1, 6), states(1, 1, 7), 0)
    assert torch.equal(other.layers[0].keys[:, :, -1:], states(1, 1, 4))
    assert torch.equal(cache.layers[0].keys, torch.cat([before, states(1, 1, 6)], dim=2))


def test_rows_that_were_joined_go_on_growing() -> None:
    parts: list[Any] = []
    for length in (2, 3):
        cache: Any = no_cache()
        cache.update(states(1, length, length), states(1, length, length), 0)
        cache.update(states(1, 1, 9), states(1, 1, 9), 0)
        parts.append(cache)
    expected = [part.layers[0].keys.clone() for part in parts]
    both: Any = joined(parts)
    both.update(states(2, 1, 8), states(2, 1, 8), 0)
    keys = both.layers[0].keys
    assert keys.shape == (2, 2, 5, 3)
    assert torch.equal(keys[:1, :, :3], expected[0])
    assert torch.equal(keys[1:, :, :4], expected[1])
    assert torch.equal(keys[:, :, 4:], states(2, 1, 8))
