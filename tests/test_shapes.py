"""The product runs with its declared shapes checked."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from concepts.adjust import Moments
from tests.shapes import Finder

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
import numpy as np
from jaxtyping import Float

def product(a: Float[np.ndarray, "n m"], b: Float[np.ndarray, " m"] | None = None) -> Float[np.ndarray, " n"]:
    return a[:, 0] if b is None else (a @ b if b.any() else a)

def plain(a: int) -> int:
    return a

@dataclass(frozen=True)
class Pair:
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]

    @property
    def difference(self) -> Float[np.ndarray, " n"]:
        return np.float32(self.x - self.y).sum()
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    path = tmp_path_factory.mktemp("shaped") / "shaped_example.py"
    path.write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        patch.setattr(sys, "meta_path", [Finder(["shaped_example"]), *sys.meta_path])
        yield importlib.import_module("shaped_example")


def test_arguments_and_results_are_checked(module: ModuleType) -> None:
    product = module.product
    assert product(np.ones((3, 2)), np.ones(2)).tolist() == [2, 2, 2]
    assert product(np.ones((3, 2))).tolist() == [1, 1, 1]
    with pytest.raises(TypeCheckError, match="parameter 'b'"):
        product(np.ones((3, 2)), np.ones(3))
    with pytest.raises(TypeCheckError, match="parameter 'a'"):
        product(np.ones((3, 2), dtype=int))
    with pytest.raises(TypeCheckError, match="return value"):
        product(np.ones((3, 2)), np.zeros(2))


def test_fields_and_properties_are_checked(module: ModuleType) -> None:
    pair = module.Pair(np.ones(2), np.zeros(2))
    with pytest.raises(TypeCheckError, match="return value"):
        _ = pair.difference
    with pytest.raises(TypeCheckError, match="parameter 'y'"):
        module.Pair(np.ones(2), np.ones(3))


def test_functions_without_shapes_are_left_alone(module: ModuleType) -> None:
    assert not hasattr(module.plain, "__wrapped__")


def test_the_product_is_checked() -> None:
    with pytest.raises(TypeCheckError, match="Moments"):
        Moments(np.ones(2), np.ones(3))
