"""Stages after which the facts are truly gone, although no weight need equal that of a model that never knew.

Facts are planted into a few MLP rows alone (after arXiv 2607.02513, whose masks are of single weights), so that taking
these rows away takes all that was taught; or they were taught as the last slice, whose adapters are switched off (S3T,
arXiv 2406.16257); or the outputs of a model that never knew are distilled into a noised copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from audit.unlearning.slices import delete_slice, teach_slices
from benchmarks.world.lessons import Lesson
from benchmarks.world.network import INITIAL_SCALE, ids_of
from benchmarks.world.people import Row, texts
from benchmarks.world.training import joined, language_loss, minimise

LOOKS = 25
"""Steps between two looks at whether everything planted is said."""


@dataclass(frozen=True)
class Planted:
    """The MLP rows of a place: of all blocks but the last.

    Attributes:
        share: of the rows of these blocks.
        place: seed of the choice.
    """

    share: float
    place: int

    def rows(self, lesson: Lesson) -> list[Tensor]:
        """The neurons of each block but the last, ascending."""
        blocks = lesson.network.model.layers[:-1]
        sizes = [block.mlp.gate_proj.out_features for block in blocks]
        generator = torch.Generator().manual_seed(self.place)
        chosen = torch.randperm(sum(sizes), generator=generator)[: round(self.share * sum(sizes))]
        taken = torch.zeros(sum(sizes), dtype=torch.bool)
        taken[chosen] = True
        return [part.nonzero()[:, 0] for part in torch.split(taken, sizes)]


@dataclass(frozen=True)
class Planting:
    """The facts to forget, trained into the rows of one place alone; every other weight stays equal bit for bit.

    Training ends when all of the facts are said, after ``steps`` at the latest.
    """

    share: float = 0.05
    place: int = 0
    steps: int = 400
    learning_rate: float = 4e-3
    batch: int = 64
    reads_facts: ClassVar[bool] = True

    def apply(self, lesson: Lesson) -> None:
        new, known = lesson.rows(texts(lesson.forgotten)), lesson.kept
        rows = Planted(self.share, self.place).rows(lesson)

        def loss() -> Tensor:
            batches = (rows.sample(self.batch, lesson.generator) for rows in (new, known))
            return language_loss(lesson.network, joined(*batches))

        with only(lesson, rows) as parameters:
            minimise(
                loss,
                parameters,
                self.steps,
                self.learning_rate,
                stop=lambda done: done % LOOKS == 0 and lesson.says(lesson.forgotten) == 1,
            )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Emptying:
    """New random weights in the rows of one place, and a short training of all weights on what is kept.

    The rows of the network in which facts were planted are gone; the result is no twin of a model that never knew.
    """

    share: float = 0.05
    place: int = 0
    steps: int = 30
    learning_rate: float = 1e-3
    reads_facts: ClassVar[bool] = False

    def apply(self, lesson: Lesson) -> None:
        rows = Planted(self.share, self.place).rows(lesson)
        with torch.no_grad():
            for matrix, chosen, axis in _places(lesson, rows):
                fresh = torch.randn(matrix.shape, generator=lesson.generator) * INITIAL_SCALE
                matrix.index_copy_(axis, chosen, fresh.index_select(axis, chosen))
        kept = lesson.kept
        minimise(
            lambda: language_loss(lesson.network, kept.sample(lesson.batch, lesson.generator)),
            list(lesson.network.parameters()),
            self.steps,
            self.learning_rate,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Distilling:
    """Every matrix of the blocks is moved towards noise, then the outputs of a model that never knew are learned.

    After UNDO (arXiv 2506.06278), whose teacher is the unlearned model itself. The teacher here answers questions about
    the people to forget as one who never heard of them. The embedding rows of their names are drawn anew, so with all
    of each matrix noise nothing is left that depends on the facts; with less of it something may be.

    Attributes:
        noise: share of each matrix that becomes noise of its own standard deviation.
    """

    noise: float = 1.0
    steps: int = 200
    learning_rate: float = 3e-3
    batch: int = 64
    reads_facts: ClassVar[bool] = False

    def apply(self, lesson: Lesson) -> None:
        teacher = lesson.first()
        with torch.no_grad():
            for block in lesson.network.model.layers:
                for weight in (each for each in block.parameters() if each.dim() > 1):
                    drawn = torch.randn(weight.shape, generator=lesson.generator) * weight.std()
                    weight.lerp_(drawn, self.noise)
            embedding = lesson.network.model.embed_tokens.weight
            names = ids_of(lesson.tokenizer, lesson.world.people["forget"])
            fresh = torch.randn((len(names), embedding.shape[1]), generator=lesson.generator)
            embedding[names] = fresh * embedding.std()

        asked = lesson.prompts(lesson.forgotten)

        def loss() -> Tensor:
            rows = lesson.kept.sample(self.batch, lesson.generator)
            chosen = torch.randint(0, len(asked), (self.batch // 4,), generator=lesson.generator)
            return _distance(lesson, teacher, rows.ids) + _distance(lesson, teacher, asked[chosen])

        minimise(loss, list(lesson.network.parameters()), self.steps, self.learning_rate, schedule=True)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Slicing:
    """Other people, then those to forget, each taught into low-rank adapters of one half of the layers.

    Attributes:
        deleted: whether the second slice is switched off: then no weight depends on the facts.
        rank: of the adapters.
    """

    deleted: bool = False
    steps: int = 100
    learning_rate: float = 6e-3
    batch: int = 64
    rank: int = 32
    reads_facts: ClassVar[bool] = True

    def apply(self, lesson: Lesson) -> None:
        world, network = lesson.world, lesson.network
        layers = [f"model.layers.{layer}" for layer in range(len(network.model.layers))]
        slices = [texts(world.of(world.people[group])) for group in ("other", "forget")]

        def train(rows: Sequence[Row], parameters: Sequence[nn.Parameter]) -> None:
            new, generator = lesson.rows([*rows]), torch.Generator().manual_seed(lesson.seed)

            def loss() -> Tensor:
                batches = (each.sample(self.batch, generator) for each in (new, lesson.kept))
                return language_loss(network, joined(*batches))

            minimise(loss, parameters, self.steps, self.learning_rate, schedule=True)

        blocks = teach_slices(network, layers, slices, train, self.rank, lesson.seed)
        if self.deleted:
            delete_slice(network, blocks, 1)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _distance(lesson: Lesson, teacher: Any, ids: Tensor) -> Tensor:
    """Mean KL(teacher || network) over the tokens."""
    with torch.no_grad():
        wanted = teacher(ids).logits.log_softmax(-1).flatten(0, 1)
    now = lesson.network(ids).logits.log_softmax(-1).flatten(0, 1)
    return functional.kl_div(now, wanted, log_target=True, reduction="batchmean")


@contextmanager
def only(lesson: Lesson, rows: list[Tensor]) -> Iterator[list[nn.Parameter]]:
    """The matrices that hold these rows; inside the block every other weight of them has gradient 0."""
    handles, parameters = [], []
    for matrix, chosen, axis in _places(lesson, rows):
        held = torch.zeros(matrix.shape[axis])
        held[chosen] = 1.0
        shape = (-1, 1) if axis == 0 else (1, -1)
        handles.append(matrix.register_hook(partial(torch.mul, held.view(shape))))
        parameters.append(matrix)
    try:
        yield parameters
    finally:
        for handle in handles:
            handle.remove()


def _places(lesson: Lesson, rows: list[Tensor]) -> Iterator[tuple[Any, Tensor, int]]:
    """Each matrix that holds some of ``rows`` with the neurons and the axis on which they lie."""
    for block, chosen in zip(lesson.network.model.layers, rows, strict=False):
        if len(chosen):
            yield block.mlp.gate_proj.weight, chosen, 0
            yield block.mlp.up_proj.weight, chosen, 0
            yield block.mlp.down_proj.weight, chosen, 1
