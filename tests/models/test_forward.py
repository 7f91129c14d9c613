"""Which prefixes are run once: every sequence is in one group, and a group saves what its pass costs."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from audit.models.forward import Row, passes, prefix_groups, shared_prefix, tokens_run


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


@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.integers(0, 30))
def test_no_other_way_to_put_rows_into_passes_takes_less(lengths: list[int], cost: int) -> None:
    def time(chosen: list[list[int]]) -> int:
        return sum(cost + len(rows) * max(lengths[row] for row in rows) for rows in chosen)

    def ways(rows: list[int]) -> Iterator[list[list[int]]]:
        if not rows:
            yield []
        for end in range(1, len(rows) + 1):
            yield from ([rows[:end], *rest] for rest in ways(rows[end:]))

    chosen = passes(range(len(lengths)), lengths.__getitem__, cost)
    assert sorted(row for rows in chosen for row in rows) == list(range(len(lengths)))
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    assert time(chosen) == min(map(time, ways(by_length)))
