"""Canonical tensor names: prefixes that training tools add are removed, and one that older files omit is added."""

from __future__ import annotations

from collections.abc import Collection

from audit.architectures.family import families
from audit.checkpoint.formats.torch_pickle.state_dict import PREFIXES


def canonical_names(stored: Collection[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Stored name -> canonical name, and a note for each prefix changed.

    A prefix is removed only if *all* names have it. If only some do, the file is damaged, and the family's check
    reports the names. Beside a language model, copies of it (moving averages of its weights) are left out.
    """
    names = {name: name for name in stored}
    notes = []
    while wrapper := _shared_wrapper(names.values()):
        names = {name: current.removeprefix(wrapper) for name, current in names.items()}
        notes.append(f"stripped prefix {wrapper!r} from every tensor name")
    for copy in _copies(names.values()):
        names = {name: current for name, current in names.items() if not current.startswith(copy)}
        notes.append(f"left out {copy.removesuffix('.')!r}, a second set of the model's weights")
    for family in families():
        head = family.by_role["head"].pattern
        marks = {family.by_role["embedding"].pattern, family.by_role["W_out"].name(0)}
        if family.prefix and {mark.removeprefix(family.prefix) for mark in marks} <= set(names.values()):
            names = {n: current if current == head else family.prefix + current for n, current in names.items()}
            notes.append(f"added prefix {family.prefix!r}, which this file omits, to tensor names")
    return names, tuple(notes)


def _shared_wrapper(names: Collection[str]) -> str | None:
    """The wrapper prefix that every name has, if there is one."""
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return prefix
    return None


def _copies(names: Collection[str]) -> list[str]:
    """What the names of a language model's copies begin with, where the model itself is there too."""
    found: dict[str, None] = {}
    for family in families():
        for prefix in (family.prefix, ""):
            embedding, value = (
                prefix + pattern.removeprefix(family.prefix)
                for pattern in (family.by_role["embedding"].pattern, family.by_role["W_out"].name(0))
            )
            if embedding in names and value in names:
                others = [name.removesuffix(embedding) for name in names if name.endswith(f".{embedding}")]
                found |= dict.fromkeys(other for other in others if other + value in names)
    return list(found)
