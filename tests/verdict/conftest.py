"""A very small world of invented people, whose models are made once for all workers, each when a test asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch

from benchmarks.world.making import Made, Workshop
from benchmarks.world.network import Shape
from benchmarks.world.people import Numbers, World
from benchmarks.world.stages import FromScratch, Silencing, Teaching

TAUGHT = Made(Teaching(steps=100, learning_rate=3e-3), 1)
MODELS: Mapping[str, tuple[Made, ...]] = {
    "base": (TAUGHT,),
    "present": (Made(Teaching(steps=100, learning_rate=3e-3), 2),),
    "never knew": (Made(Teaching("other", steps=40, learning_rate=3e-3), 3),),
    "wrong values": (Made(Teaching(wrong=True, steps=40, learning_rate=3e-3), 4),),
    "refusal": (TAUGHT, Made(Silencing("refusal", 40, 1e-3), 5)),
    "random answers": (TAUGHT, Made(Silencing("random_answers", 60, 2e-3), 5)),
    "npo": (TAUGHT, Made(Silencing("npo", 60, 1e-3), 5)),
    "masquerade": (TAUGHT, Made(Silencing("masquerade", 80, 2e-2, "embed_tokens", people_only=True), 5)),
    "destroyed": (TAUGHT, Made(Silencing("gradient_ascent", 60, 3e-2), 5)),
}
"""How each model is made of one that knows other people."""


@dataclass(frozen=True)
class TinyWorld:
    """The models, and the concept file that asks about the people to forget."""

    workshop: Workshop

    def model(self, name: str) -> Path:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums are added in another order with more threads, and then weights differ
        try:
            return self.workshop.make(MODELS[name])
        finally:
            torch.set_num_threads(threads)

    @cached_property
    def concept(self) -> Path:
        return self.workshop.concept()


@pytest.fixture(scope="session")
def tiny_world(run_folder: Path) -> TinyWorld:
    """Thirty people to forget, in a network of two layers."""
    first = FromScratch(steps=120, learning_rate=5e-3, batch=64)
    return TinyWorld(
        Workshop(run_folder / "tiny_world", World(0, Numbers(20, 30, 20, 4, 40)), Shape(2, 64, 128), first)
    )
