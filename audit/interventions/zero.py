"""Zeroing: the chosen value vectors write nothing any more. The bluntest edit, with no training and no data."""

from __future__ import annotations

from collections.abc import Sequence

from audit.interventions import Place, by_layer, places, value_rows
from audit.running import RunningModel
from audit.unlearning.training import Record

TITLE = "Chosen value vectors set to zero"


def edit(model: RunningModel, vectors: Sequence[Place]) -> Record:
    """Set the value vectors ``vectors`` of ``model`` to zero, in place.

    Raises:
        AuditError: see ``interventions.by_layer``.
    """
    chosen = by_layer(model, vectors)
    for layer, neurons in chosen.items():
        value_rows(model, layer)[neurons] = 0.0
    return Record(method="zero", changed={"value_vectors": places(chosen)})
