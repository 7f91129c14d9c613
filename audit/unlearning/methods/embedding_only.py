"""Embedding-only unlearning: NPO that may change the embeddings of the forget set's own tokens alone.

Knowledge in the blocks stays as it is and only its address is moved (after EMBER, arXiv 2606.03695, which hides
knowledge there from relearning). Where embedding and head are one matrix, the same rows of the head change too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example, tokenize
from audit.progress import SILENT, Progress
from audit.unlearning.methods import npo
from audit.unlearning.objective import Extras, train_all
from audit.unlearning.training import Record, unused

TITLE = "Negative preference optimization of embeddings alone"


@dataclass(frozen=True)
class EmbeddingOnlySettings(npo.NPOSettings):
    """Settings of NPO on embeddings."""

    steps: int = 60
    learning_rate: float = 1e-2
    lora_rank: int = unused(0)


SETTINGS = EmbeddingOnlySettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: EmbeddingOnlySettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train the embeddings of the tokens that occur in prompts of ``forget`` and in none of ``retain``, in place.

    Raises:
        AuditError: there is no such token; or see ``objective.train_all``.
        ModelError: see ``objective.train_all``.
    """
    embedding = model.model.get_input_embeddings().weight
    chosen = own_tokens(model, forget, retain)
    others = ~chosen.to(embedding.device)
    before = embedding.detach()[others]

    def hold(done: int, learning_rate: float) -> None:
        embedding[others] = before

    loss = partial(npo.forget_loss, beta=settings.beta)
    extras = Extras(after=hold, parameters=[embedding])
    record = train_all("embedding_only", loss, model, forget, retain, settings, progress, extras)
    return record.with_changed(parameters="rows of the embedding", token_ids=chosen.nonzero()[:, 0].tolist())


def own_tokens(model: RunningModel, forget: Sequence[Example], retain: Sequence[Example]) -> Bool[Tensor, " d_vocab"]:
    """Which tokens occur in the prompts of ``forget`` and in no example of ``retain``.

    Raises:
        AuditError: none does.
    """
    own = {token for each in tokenize(model.tokenizer, forget) for token in each.prompt}
    own -= {token for each in tokenize(model.tokenizer, retain) for token in (*each.prompt, *each.answer)}
    if forget and not own:
        raise AuditError(
            "the prompts to forget have no token of their own.", hint="Retain less, or choose another method."
        )
    chosen = torch.zeros(len(model.model.get_input_embeddings().weight), dtype=torch.bool)
    chosen[sorted(own)] = True
    return chosen
