"""Direction ablation: ``h - (h . d) d`` after every block, for a direction ``d`` of its own (arXiv 2409.18025).

Unlearning that pushes the states of a topic along one direction (RMU, refusals) is undone where that is removed. Two
directions are tried, both from states at the last token of questions:

- the mean state of the model minus that of the base. It is computed from one half of the subjects' questions and the
  other half is read, both ways, because the base's states hold the answers;
- the first principal component of the states at the facts' questions, relative to the mean state at unrelated
  questions, all in the model itself. It needs no base.

In the base itself the first is 0, and nothing is removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from audit.attacks import AttackedModel, AttackInput
from audit.errors import AuditError
from audit.models.hooks import without_directions
from audit.models.loading import RunningModel
from audit.questions.base_parts import half_means, last_states
from audit.questions.conditions import Condition
from audit.questions.items import ItemSet, Prompt
from concepts.facts import facts_of, halves

TITLE = "direction ablation"
COST = "passes"
INPUT = "directions"
LEVEL = "full"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

SMALLEST: Final = 1e-5
"""Length of a direction, relative to the states it is computed from, below which it is rounding."""
States = Float[Tensor, "n_prompts n_layers d_model"]
Directions = dict[int, Float[Tensor, " d_model"]]
FROM_BASE, FROM_UNRELATED = "difference from the base", "difference from unrelated questions"


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """The direction from unrelated questions, then the one from the base, once for each half of the subjects.

    Raises:
        AuditError: at the end, if a direction could not be computed.
    """
    facts, concept, model = given.items.facts(), given.topic.concept, given.model
    if concept is None or not facts.written:
        return
    missing = []
    unrelated = [prompt for prompt in given.items.written if prompt.kind == "unrelated"]
    half = halves(facts_of(concept)[: given.settings.limit], given.settings.seed)
    own = None if model is None else last_states(model, facts.written, given.settings.batch_size)
    if unrelated:
        found = None if model is None or own is None else _principal(model, own, unrelated)
        yield from _ablated(given, Condition("directions", FROM_UNRELATED), facts, found)
    else:
        missing.append("there are no unrelated questions to compare with")
    if len({half[prompt.subject] for prompt in facts.written}) < 2:
        missing.append("the facts have one subject, so none can be held out")
    elif own is not None and (given.base is None or given.base.residual[0].shape != own.shape[1:]):
        missing.append("the model is not a version of the base")
    else:
        for fold in (0, 1):
            read = given.items.facts({subject for subject in half if half[subject] == fold})
            found = None if own is None else _difference(given, own, facts.written, half, 1 - fold)
            yield from _ablated(given, Condition("directions", FROM_BASE, given.settings.seed, fold), read, found)
    if missing:
        raise AuditError("; ".join(missing) + ".")


def _ablated(
    given: AttackInput, condition: Condition, items: ItemSet, found: Directions | None
) -> Iterator[AttackedModel]:
    if given.model is None or found is None:  # only the cost is asked for
        yield AttackedModel(condition, items)
        return
    with without_directions(given.model, found):
        yield AttackedModel(condition, items, given.model)


def _principal(model: RunningModel, own: States, unrelated: Sequence[Prompt]) -> Directions:
    """First right singular vector, in each layer, of the states at the facts minus the mean of the others."""
    relative = own - last_states(model, unrelated).mean(dim=0)
    _, _, right = torch.linalg.svd(relative.transpose(0, 1), full_matrices=False)
    lengths = relative.norm(dim=-1).mean(dim=0)
    return _unit(right[:, 0] * lengths[:, None], own)


def _difference(
    given: AttackInput, own: States, prompts: Sequence[Prompt], half: Mapping[str, int], number: int
) -> Directions:
    """Mean state of the model minus that of the base, at the questions about one half of the subjects."""
    assert given.base is not None  # checked by the caller
    return _unit(half_means(own, prompts, half)[number] - given.base.residual[number], own)


def _unit(directions: Float[Tensor, "n_layers d_model"], states: States) -> Directions:
    """Layer -> direction of length 1, where it is not rounding."""
    lengths, scales = directions.norm(dim=-1), states.norm(dim=-1).mean(dim=0)
    layers = torch.nonzero(lengths > SMALLEST * scales).flatten().tolist()
    return {layer: directions[layer] / lengths[layer] for layer in layers}
