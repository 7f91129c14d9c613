"""Where the finished readings of one topic are kept, under digests of everything that decides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from audit.attacks import NONE, Attack, AttackInput, Level
from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.questions.conditions import Condition
from audit.questions.items import ItemSet
from audit.questions.readings import Readings
from audit.questions.topics import Topic
from audit.settings import Settings
from audit.units import UnitStore, digest_of
from audit.unlearning.twin import Twin


@dataclass(frozen=True)
class KeptReadings:
    """The stores of one topic's models.

    Attributes:
        folder: ``None`` if nothing is kept.
        digests: role -> SHA-256 of the model's files.
        run_as: role -> ``run_digest``, once the model has been asked.
    """

    folder: Path | None
    digests: Mapping[str, Sequence[str]]
    topic: Topic
    settings: Settings
    run_as: dict[str, str] = field(default_factory=dict)

    def asked(self, role: str, model: RunningModel, items: ItemSet) -> None:
        """Take note of how the model of ``role`` is run, before its store is asked for."""
        self.run_as[role] = run_digest(model, items)

    def store(self, role: str, given: AttackInput | None = None, twin: Twin | None = None) -> UnitStore | None:
        """Where the units of one model are kept; ``None`` if nothing is.

        Args:
            given: of the attacks that change the model; ``None`` for the readings of the unmodified model.
            twin: how the twin was made, for its own readings.
        """
        if self.folder is None:
            return None
        own = "base" if role == "twin" else role
        inputs = {
            "model": self.digests[own],
            "run as": [self.run_as["base"], self.run_as[own]],
            "twin": [twin.learning_rate, twin.steps] if role == "twin" and twin else None,
            "base": self.digests["base"],
            "topic": self.topic.digest(),
            "learning_rate": given.learning_rate if given else None,
            "update": given.update if given and given.level == "full" else None,
            "settings": self.settings.as_json() | {"attacks": level_of(self.settings)},
            "torch": [torch.__version__, torch.get_num_threads()],
        }
        return UnitStore(self.folder, inputs)


def level_of(settings: Settings) -> Level:
    """``full`` if ``--attacks full`` or attacks by name were asked for, whose long version is meant."""
    return "quick" if settings.attacks in ("quick", NONE) else "full"


def run_digest(model: RunningModel, items: ItemSet) -> str:
    """SHA-256 of what decides a model's readings beside its weights: its config, its tokenizer and the token ids."""
    config = {name: value for name, value in model.model.config.to_dict().items() if not name.startswith("_")}
    tokenizer = model.tokenizer
    vocabulary = sorted(tokenizer.get_vocab().items())
    asked = [[each.ids for each in items.written], [(each.prompt_ids, each.answer_ids) for each in items.items]]
    document = [config, vocabulary, tokenizer.eos_token_id, tokenizer.chat_template, asked]
    return digest_of(document)


def planned_items(attack: Attack, given: AttackInput) -> dict[Condition, ItemSet]:
    """The conditions of an attack with their items; those before an error if it cannot be run to its end."""
    planned: dict[Condition, ItemSet] = {}
    with suppress(AuditError):
        for each in attack.conditions(replace(given, model=None)):
            planned[each.condition] = each.items
    return planned


def loaded(store: UnitStore, planned: Mapping[Condition, ItemSet]) -> dict[Condition, Readings]:
    """The readings that are kept already."""
    loaded = ((condition, store.load(condition, items)) for condition, items in planned.items())
    return {condition: readings for condition, readings in loaded if readings is not None}
