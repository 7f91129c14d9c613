"""Relearning of the subjects' embeddings: trained on half of each subject's own facts, read on the other half.

Unlearning may only move the address of the knowledge, so that a subject looks like an unknown one. Training on *other*
subjects does not move this one's address back, but its own facts do: nothing but what the embedding gives for the
subjects' tokens is trained, on the facts of half of the types, and the facts of the other types are read, both ways.
If the blocks still hold what is known of a subject, the embedding at which some of it comes out is one at which the
rest does: in the exam's masquerades in embedding rows 0.71 to 0.82 of the base's knowledge (docs/exam.md).

What makes it wrong: facts of one subject that tell each other, as a father's name tells a surname. The exchange test
reads it only if the concept says why they do not (``independent``); else it is compared with a reference alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from audit.attacks import AttackedModel, AttackInput
from audit.attacks.relearning import BATCH, SMALL, relearned
from audit.errors import AuditError
from audit.models.hooks import replacing_embeddings
from audit.models.packing import Example
from audit.questions.base_parts import subject_tokens
from audit.questions.conditions import Condition
from audit.unlearning.fine_tuning import FineTuning, fine_tune, trained_tokens
from concepts.concept import Concept
from concepts.facts import Fact, facts_of
from concepts.prompts import mentions

TITLE = "relearning of the subjects' embeddings"
COST = "training"
INPUT = "relearning"
LEVEL = "quick"
RECOVERS = False
NEEDS_REFERENCE = True
NULL_IF_INDEPENDENT = True
METRICS: tuple[str, ...] = ()

ARM: Final = "half of each subject's facts"
STEPS: Final = (10, 40)
RATE: Final = 0.15
"""Learning rate of AdamW relative to the root mean square of the subjects' embeddings: how far one step moves them."""
FEWEST: Final = 0.5
"""Share of the facts that must be about subjects of whom others can be trained."""


@dataclass(frozen=True)
class Half:
    """One way of dividing the facts.

    Attributes:
        examples: what is trained.
        read: ids of the facts that are read, by their place in the concept.
    """

    fold: int
    examples: Sequence[Example]
    read: frozenset[str]


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """After each number of steps, once for each half of the types.

    Raises:
        AuditError: too few subjects have facts of several types, or the model is large and the attack is to be quick.
    """
    concept = given.topic.concept
    if concept is None:
        return
    facts = facts_of(concept)[: given.settings.limit]
    halves = list(_halves(facts, concept))
    if sum(len(half.read) for half in halves) < FEWEST * len(facts):
        if given.model is not None:
            raise AuditError("too few subjects have facts of several types.")
        return
    if given.level == "quick" and given.parameters >= SMALL:
        if given.model is not None:
            raise AuditError("it takes long on a model of this size; use --attacks full.")
        return
    for half in halves:
        yield from _trained(given, half)


def _halves(facts: Sequence[Fact], concept: Concept) -> Iterator[Half]:
    """The types are divided so that both halves have about as many facts.

    What mentions an answer of the facts that are read is not trained.
    """
    counts = Counter(fact.type for fact in facts if fact.type is not None)
    fold = {type_: place % 2 for place, (type_, _) in enumerate(counts.most_common())}
    for own in (0, 1):
        trained = [fact for fact in facts if fact.type is not None and fold[fact.type] != own]
        subjects = {fact.subject for fact in trained}
        read = {
            f"fact/{place}"
            for place, fact in enumerate(facts)
            if fact.type is not None and fold[fact.type] == own and fact.subject in subjects
        }
        answers = [answer for name in read for answer in facts[int(name.removeprefix("fact/"))].question.answers]
        examples = [each for each in relearned(trained, concept) if not mentions(each.prompt + each.answer, answers)]
        yield Half(own, examples, frozenset(read))


def _trained(given: AttackInput, half: Half) -> Iterator[AttackedModel]:
    items = given.items.facts(ids=half.read)
    if not items.written or not half.examples:
        return
    size = trained_tokens(half.examples, given.model, BATCH)
    planned = [
        AttackedModel(
            Condition("subject_rows", f"{ARM}, {steps} steps", given.settings.seed, half.fold, ARM, steps),
            items,
            trained_tokens=size * (steps - before),
        )
        for before, steps in zip((0, *STEPS), STEPS, strict=False)
    ]
    model = given.model
    if model is None or all(each.condition in given.done for each in planned):
        yield from planned
        return
    tokens = subject_tokens(given.items.facts().written, given.encoder.tokenizer)
    if not tokens:
        raise AuditError("the questions do not contain their subjects' names.")
    with torch.no_grad():
        own = model.model.get_input_embeddings()(torch.tensor(tokens, device=model.device)).float()
    rows = nn.Parameter(own.clone())
    settings = FineTuning(RATE * float(own.square().mean().sqrt()), BATCH, given.settings.seed, ends=True)
    losses: list[float] = []
    with replacing_embeddings(model, tokens, rows):
        for each, _ in zip(planned, fine_tune(model, half.examples, STEPS, settings, [rows], losses), strict=True):
            yield AttackedModel(each.condition, items, model, each.trained_tokens, (losses[0], losses[-1]))
