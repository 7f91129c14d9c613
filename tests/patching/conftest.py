"""The tiny world, trained once, by one worker, and read once for each changed model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from audit.patching.readings import PatchReadings
from tests.patching.world import World, build


@pytest.fixture(scope="session")
def world(run_folder: Path) -> World:
    folder, built = run_folder / "patching_world", run_folder / "patching_world_is_built"
    with FileLock(run_folder / "patching_world.lock"):
        if not built.exists():
            build(folder)
            built.touch()
    return World(folder)


@pytest.fixture(scope="session")
def patched(world: World) -> Callable[[str], PatchReadings]:
    """Name of the unlearned model -> its readings; the retained model is the one that never knew."""
    return cache(lambda name: world.patched(name, "never"))
