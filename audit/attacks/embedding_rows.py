"""The base's embeddings of the subjects' tokens in place of the model's own.

Unlearning may only move the address of the knowledge: a subject's tokens are embedded as those of an unknown person,
and no attack on the rest of the model finds what is still stored. The embeddings are replaced as the blocks read them;
a head that is tied to the embedding stays as it is.

The base's rows carry something of the facts themselves, so a model that never knew them prefers true answers too (eight
tiny models: z from 0.0 to 3.8, mean 2.3, where rounding to 8 bits gave -1.7 to 1.4). The condition is only compared
with that of a reference given the same rows: a retained model, or the model that the base was trained from. Without a
reference it shows nothing for certain, but a model from which half of the facts can be read in this way is not called
removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from audit.attacks import AttackedModel, AttackInput
from audit.errors import AuditError
from audit.models.hooks import replacing_embeddings
from audit.questions.base_parts import subject_tokens
from audit.questions.conditions import Condition

TITLE = "the base's embeddings of the subjects"
COST = "passes"
INPUT = "embedding_rows"
LEVEL = "quick"
RECOVERS = True
NEEDS_REFERENCE = True
METRICS: tuple[str, ...] = ()

CONDITION: Final = Condition("embedding_rows", "the base's rows of the subjects' tokens")


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition, in which all facts are read.

    Raises:
        AuditError: the model reads the subjects in other tokens than the base, so the rows are not its own.
    """
    items, base = given.items.facts(), given.base
    if not items.written:
        return
    if given.model is None:
        yield AttackedModel(CONDITION, items)
        return
    same_tokens = base is not None and subject_tokens(items.written, given.encoder.tokenizer) == base.token_ids
    if base is None or not same_tokens or base.embedded.shape[1] != given.model.architecture.d_model:
        raise AuditError("the model does not embed the subjects' tokens as a version of the base does.")
    with replacing_embeddings(given.model, base.token_ids, base.embedded):
        yield AttackedModel(CONDITION, items, given.model)
