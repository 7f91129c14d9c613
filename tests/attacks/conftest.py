"""One random model and one that knows the invented facts, for all tests of attacks that change a model."""

from __future__ import annotations

import pytest

from audit.models.loading import RunningModel
from tests.attacks.known_facts import changed, taught, tiny


@pytest.fixture(scope="session")
def ignorant(tmp_path_factory: pytest.TempPathFactory) -> RunningModel:
    """A random model; tests leave it as it is."""
    return tiny(tmp_path_factory.mktemp("ignorant") / "model")


@pytest.fixture(scope="session")
def knowing(ignorant: RunningModel) -> RunningModel:
    """The same model after training on the facts; tests leave it as it is."""
    return taught(changed(ignorant))
