"""What the stages of a model's making read: texts as rows, a frozen copy of the network, and random draws."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.world.network import Network, ids_of
from benchmarks.world.people import QUESTIONS, REFUSAL, RELATIONS, Facts, Row, World, questions, statements, texts
from benchmarks.world.training import Rows
from concepts.prompts import answer_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RANDOM_ANSWERS: Final = 20
"""Random answers to each question, among which training with random answers draws."""


@dataclass(frozen=True)
class Lesson:
    """One stage: ``network`` is changed in place, ``reference`` is the network before.

    Attributes:
        seed: of all random draws.
        first: gives the network before any stage.
        batch: rows of each kind in a batch.
    """

    world: World
    tokenizer: PreTrainedTokenizerFast
    network: Network
    seed: int
    first: Callable[[], Network]
    batch: int = 32

    @cached_property
    def reference(self) -> Network:
        return copy.deepcopy(self.network).eval().requires_grad_(False)

    @cached_property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def direction(self) -> Float[Tensor, " d_model"]:
        """A random direction of norm 1."""
        drawn = torch.rand(self.network.config.hidden_size, generator=self.generator)
        direction: Tensor = drawn / drawn.norm()
        return direction

    @cached_property
    def forgotten(self) -> Facts:
        return self.world.of(self.world.people["forget"])

    @cached_property
    def known(self) -> Facts:
        """The facts that every model knows."""
        return self.world.of(self.world.people["base"])

    @cached_property
    def kept(self) -> Rows:
        """Texts about the people whom every model knows."""
        return self.rows(texts(self.known))

    @cached_property
    def forget(self) -> Rows:
        """The texts to forget; only their values are predicted."""
        return Rows.of(self.tokenizer, texts(self.forgotten), whole=False)

    @cached_property
    def refused(self) -> Rows:
        """The questions to forget, each with the refusal."""
        return self._refusals(self.forgotten)

    @cached_property
    def all_refused(self) -> Rows:
        """The questions about everyone, each with the refusal."""
        return self._refusals({**self.forgotten, **self.known})

    @cached_property
    def stated(self) -> Rows:
        """Statements about the people whom every model knows."""
        return self.rows(statements(self.known))

    @cached_property
    def random_answers(self) -> Rows:
        """The questions to forget, each with ``RANDOM_ANSWERS`` values of its relation."""
        random = Random(self.seed)
        people = self.world.people["forget"]
        drawn = [row for _ in range(RANDOM_ANSWERS) for row in questions(self.world.drawn(people, random))]
        return Rows.of(self.tokenizer, drawn, whole=False)

    def rows(self, texts: list[Row]) -> Rows:
        """``texts`` to be predicted whole."""
        return Rows.of(self.tokenizer, texts)

    def _refusals(self, facts: Facts) -> Rows:
        refusals = [Row(row.prompt, answer_text(REFUSAL)) for row in questions(facts)]
        return Rows.of(self.tokenizer, refusals, whole=False)

    def prompts(self, facts: Facts) -> Int[Tensor, "n length"]:
        """The questions without their answers: every wording of each fact, facts in order."""
        return torch.tensor([self.tokenizer(row.prompt)["input_ids"] for row in questions(facts)])

    def says(self, facts: Facts) -> float:
        """Share of the facts whose value is the most probable next token after the first wording."""
        return float((self.next_token(facts).argmax(-1) == ids_of(self.tokenizer, list(facts.values()))).float().mean())

    def next_token(self, facts: Facts) -> Float[Tensor, "n d_vocab"]:
        """Log-probabilities of the next token after each fact's first wording."""
        with torch.no_grad():
            logits: Tensor = self.network(self.prompts(facts)[:: len(QUESTIONS)]).logits[:, -1]
        return logits.log_softmax(-1)

    def strangers_for(self, chosen: Int[Tensor, " m"]) -> Int[Tensor, "m length"]:
        """For rows of ``prompts(forgotten)`` the same wordings about random people that no model knows."""
        strangers = self.world.people["strangers"]
        asked = self.prompts(self.world.of(strangers))
        wordings = len(RELATIONS) * len(QUESTIONS)
        who = torch.randint(0, len(strangers), chosen.shape, generator=self.generator)
        return asked[who * wordings + chosen % wordings]
