"""Reads one topic in every model: as the models are, and under every attack."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import numpy as np
from jaxtyping import Float

from audit.attacks import Attack, AttackedModel, AttackInput, chosen_attacks
from audit.attacks.relearning import fact_examples
from audit.errors import AuditError, is_out_of_memory
from audit.kept_readings import KeptReadings, level_of, loaded, planned_items
from audit.knowledge.exchange import ranks
from audit.lenses.tuned_lens import translators
from audit.models.loading import RunningModel
from audit.patching.collect import Collector
from audit.patching.readings import PatchReadings
from audit.questions.base_parts import BaseParts
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import NEUTRAL_TEXT, Encoder, ItemSet, check_answers, with_short_answers
from audit.questions.readings import BaseReadout, ForwardPlan, Readings, generate, write_and_read
from audit.questions.topics import Topic
from audit.request import RunContext
from audit.settings import Settings
from audit.unlearning.twin import Twin, refusal_twin
from concepts.facts import Fact, facts_of, halves

TUNED: Final = "tuned"
TWIN: Final = "twin"
"""Name of the note on how the twin was made."""
OUT_OF_MEMORY: Final = "out of memory; choose other attacks with --attacks, or a smaller --batch-size"


@dataclass(frozen=True)
class TopicReadings:
    """What all models did with one topic's questions.

    Attributes:
        by_condition: condition -> role -> readings, of the models that are versions of the base.
        reference, twin: condition -> readings of the facts, for the reference model and the base's refusal twin.
        made: how the twin was made; ``None`` if there is none.
        not_run: (role, attack or one of its conditions) -> the reason why it did not run on this model. A condition in
            which the base cannot answer is not read in any model.
        collected: what the collector read, or the reason why it read nothing.
    """

    by_condition: Mapping[Condition, Mapping[str, Readings]] = field(default_factory=dict)
    reference: Mapping[Condition, Readings] = field(default_factory=dict)
    twin: Mapping[Condition, Readings] = field(default_factory=dict)
    made: Twin | None = None
    not_run: Mapping[tuple[str, str], str] = field(default_factory=dict)
    collected: PatchReadings | str | None = None


@dataclass(frozen=True)
class _Begun:
    """The answers of the unmodified model, and what was read while they were written if it was in this run."""

    texts: Mapping[str, str]
    plan: ForwardPlan | None = None


class TopicReader:
    """Reads one topic in one model after the other, the base first.

    Args:
        digests: role -> SHA-256 of the model's files; needed only if finished units are kept.
        update: relative norm of the update from base to unlearned, see ``AttackInput``.
        collector: reads further things of the models that are versions of the base.
    """

    def __init__(
        self,
        topic: Topic,
        context: RunContext,
        digests: Mapping[str, Sequence[str]],
        update: float | None = None,
        collector: Collector | None = None,
    ) -> None:
        self.kept = KeptReadings(context.units, digests, topic, context.settings)
        self.topic, self.settings, self.progress = topic, context.settings, context.progress
        self.update, self.collector = update, collector
        self.attacks = possible_attacks(topic, context.settings)
        self.items = ItemSet()
        self.base: BaseReadout | None = None
        self.parts: BaseParts | None = None
        self.made: Twin | None = None
        self.by_condition: dict[Condition, dict[str, Readings]] = {}
        self.facts: dict[str, dict[Condition, Readings]] = {"reference": {}, "twin": {}}
        self.not_run: dict[tuple[str, str], str] = {}
        self.left_out: set[Condition] = set()

    def readings(self) -> TopicReadings:
        """Everything that was read."""
        return TopicReadings(
            self.by_condition,
            self.facts["reference"],
            self.facts["twin"],
            self.made,
            dict(self.not_run),
            None if self.collector is None else self.collector.result(),
        )

    def repeat(self, role: str, other: str) -> None:
        """The readings of ``role`` for a model with the same weights."""
        for by_role in self.by_condition.values():
            by_role[other] = by_role[role]
        self.not_run |= {(other, name): reason for (who, name), reason in self.not_run.items() if who == role}

    def read(self, model: RunningModel, role: str) -> None:
        """The model as it is and under every attack; of the base also its own answers, its readout and its twin."""
        encoder = Encoder(model.tokenizer, model.context)
        if role == "base":
            self.items = self.topic.items(encoder, self.settings.limit)
        self.kept.asked(role, model, self.items)
        begun = None
        if role == "base":
            begun = self._own_answers(model)
            self.items = self.topic.with_own_answers(self.items, begun.texts, encoder)
        model = self._with_lens(model, self.items, role)
        given = self._given(model, encoder, self.items)
        self._read_prompted(model, given, role, begun)
        if self.collector is not None:
            self.collector.read(model, role, self.items, self.by_condition[AS_IS][role].right)
        if role == "base":
            self._read_twin(model, given)
        given = self._given(model, encoder, self.items)  # with the twin's learning rate
        for condition, readings in self._read_attacked(given, role):
            self.by_condition.setdefault(condition, {})[role] = readings

    def _own_answers(self, base: RunningModel) -> _Begun:
        """What the base writes, from which further questions are made."""
        store = self.kept.store("base")
        texts = None if store is None else store.generated(AS_IS)
        if texts is not None:
            return _Begun(texts)
        plan = ForwardPlan([self.items])
        texts, _ = generate(base, self.items, self.settings.batch_size, self.progress, plan)
        return _Begun(texts, plan)

    def _read_prompted(self, model: RunningModel, given: AttackInput, role: str, begun: _Begun | None = None) -> None:
        """The model as it is and under the attacks that change prompts.

        Args:
            begun: the answers of the unmodified model, if they are written already.
        """
        prompted = self._prompted(given, role)
        together = {AS_IS: self.items} | {each.condition: each.items for each in prompted}
        if role == "base":
            self.base = BaseReadout.of(model, list(together.values()))
            self.parts = self._parts(model)
        read = self._kept_or_read(model, role, together, begun)
        if role == "base":
            reasons = too_hard(prompted, read)
            self.left_out = set(reasons)
            self.not_run |= {(role, str(condition)): reason for condition, reason in reasons.items()}
        for condition in (each for each in read if each not in self.left_out):
            self.by_condition.setdefault(condition, {})[role] = read[condition]

    def read_reference(self, model: RunningModel) -> None:
        """The facts in a model that never saw them, asked with its own tokenizer."""
        encoder = Encoder(model.tokenizer, model.context)
        items = self.topic.items(encoder, self.settings.limit)
        self.kept.asked("reference", model, items)
        model = self._with_lens(model, items, "reference")
        unlearned = {condition for condition, read in self.by_condition.items() if "unlearned" in read}
        given = replace(self._given(model, encoder, items), follows=unlearned)
        prompted = self._prompted(given, "reference")
        together = {AS_IS: items} | {each.condition: each.items for each in prompted}
        together = {condition: each.facts() for condition, each in together.items()}
        self.facts["reference"] = self._kept_or_read(model, "reference", together, through_base=False)
        self.facts["reference"] |= dict(self._read_attacked(given, "reference", through_base=False))

    def _with_lens(self, model: RunningModel, items: ItemSet, role: str) -> RunningModel:
        """``model`` with a tuned lens, if one is asked for; attacked versions of it are read through the same."""
        if self.settings.lens != TUNED:
            return model
        texts = [item.prompt_ids + item.answer_ids for item in items.of(NEUTRAL_TEXT)]
        try:
            return replace(model, translate=translators(model, texts).translate)
        except AuditError as error:
            self.not_run[role, "tuned lens"] = error.message
            return model

    def _given(self, model: RunningModel, encoder: Encoder, items: ItemSet) -> AttackInput:
        return AttackInput(
            model,
            encoder,
            self.topic,
            with_short_answers(items, encoder),
            self.settings,
            self.made.learning_rate if self.made else None,
            sum(parameter.numel() for parameter in model.model.parameters()),
            level_of(self.settings),
            base=self.parts,
            update=self.update,
        )

    def _parts(self, base: RunningModel) -> BaseParts | None:
        """What attacks that change a model compare it with."""
        asked = self.items.facts().written
        needed = any(attack.COST != "prompts" for attack in self.attacks.values())
        if not needed or self.topic.concept is None or not asked:
            return None
        facts = facts_of(self.topic.concept)[: self.settings.limit]
        return BaseParts.of(base, asked, halves(facts, self.settings.seed), self.settings.batch_size)

    def _prompted(self, given: AttackInput, role: str) -> list[AttackedModel]:
        """The conditions of the attacks that change prompts; an attack that cannot be run is noted, with the reason."""
        prompted: list[AttackedModel] = []
        for name, attack in self.attacks.items():
            if attack.COST == "prompts":
                try:
                    prompted += attack.conditions(given)
                except AuditError as error:
                    self.not_run[role, name] = error.message
        return [each for each in prompted if each.condition not in self.left_out]

    def _kept_or_read(
        self,
        model: RunningModel,
        role: str,
        together: Mapping[Condition, ItemSet],
        begun: _Begun | None = None,
        through_base: bool = True,
    ) -> dict[Condition, Readings]:
        """``_read_together`` for the conditions that were not kept by an earlier run; in the order of ``together``."""
        store = self.kept.store(role, twin=self.made)
        kept = {} if store is None else loaded(store, together)
        missing = {condition: items for condition, items in together.items() if condition not in kept}
        read = self._read_together(model, missing, begun, through_base) if missing else {}
        if store is not None:
            for condition, readings in read.items():
                store.save(condition, readings)
        return {condition: (kept | read)[condition] for condition in together}

    def _read_together(
        self,
        model: RunningModel,
        together: Mapping[Condition, ItemSet],
        begun: _Begun | None = None,
        through_base: bool = True,
    ) -> dict[Condition, Readings]:
        """The conditions that change prompts alone, in one pass.

        Args:
            begun: the answers of the unmodified model, if they are written already.
            through_base: whether the layers are read through the base's head too.
        """
        texts, plan = ({}, None) if begun is None else ({AS_IS: begun.texts}, begun.plan)
        base = self.base if through_base else None
        read = write_and_read(model, together, texts, self.settings.batch_size, self.progress, base, plan)
        return {
            condition: replace(readings, right=self.topic.check(together[condition], readings.generated))
            for condition, readings in read.items()
        }

    def _read_attacked(
        self, given: AttackInput, role: str, through_base: bool = True
    ) -> Iterator[tuple[Condition, Readings]]:
        """The readings under the attacks that change the model; an attack that fails is noted, with the reason."""
        for name, attack in self._changing(role).items():
            store = self.kept.store(role, given, self.made)
            try:
                stored = {} if store is None else loaded(store, planned_items(attack, given))
                for each in attack.conditions(replace(given, done=stored)):
                    readings = stored.get(each.condition)
                    if readings is None:
                        self.progress.step(f"Reading the {role} model under {each.condition}")
                        readings = self._read_alone(each, given, through_base)
                        if store is not None:
                            store.save(each.condition, readings)
                    yield each.condition, readings
            except Exception as error:
                self.not_run[role, name] = _reason(error)

    def _changing(self, role: str) -> dict[str, Attack]:
        """The attacks that change this model. On level quick the base is not trained, and its twin only trained."""
        left_out = {"prompts"}
        if level_of(self.settings) != "full":
            left_out |= {"base": {"training"}, "twin": {"passes"}}.get(role, set())
        return {name: attack for name, attack in self.attacks.items() if attack.COST not in left_out}

    def _read_alone(self, each: AttackedModel, given: AttackInput, through_base: bool) -> Readings:
        attacked = each.model or given.model
        assert attacked is not None  # only a plan has no model
        (readings,) = self._read_together(attacked, {each.condition: each.items}, through_base=through_base).values()
        return replace(readings, trained_loss=each.trained_loss)

    def _read_twin(self, model: RunningModel, given: AttackInput) -> None:
        """The base's refusal twin under the attacks that train or change weights, if one of them trains."""
        concept = self.topic.concept
        training = [name for name, attack in self.attacks.items() if attack.COST == "training"]
        if concept is None or not training or not self.items.facts().groups:
            return
        plain = self.by_condition[AS_IS]["base"]
        known = [prompt for prompt in self.items.facts().written if plain.right.get(prompt.id)]
        if not known:
            return
        if self._twin_is_kept(given):
            return
        facts = facts_of(concept)[: self.settings.limit]
        kept = fact_examples([Fact(None, "", each) for each in concept.unrelated if each.answer], concept)

        asked = with_short_answers(ItemSet(written=tuple(known)), Encoder(model.tokenizer, model.context))

        def says() -> float:
            written, _ = generate(model, asked, self.settings.batch_size, self.progress)
            right = check_answers(known, written)
            return sum(right.values()) / len(known)

        try:
            with refusal_twin(
                model, fact_examples(facts, concept), kept, says, self.settings.seed, self.progress
            ) as made:
                self.made = made
                self.facts["twin"] = self._kept_or_read(model, "twin", {AS_IS: given.items.facts()})
                twin = replace(given, learning_rate=made.learning_rate)
                self.facts["twin"] |= dict(self._read_attacked(twin, "twin"))
                if (store := self.kept.store("base")) is not None:
                    store.save_note(TWIN, asdict(made))
        except Exception as error:
            reason = _reason(error)
            for name in training:
                self.not_run["twin", name] = reason

    def _twin_is_kept(self, given: AttackInput) -> bool:
        """Take the twin's readings from an earlier run, if all of them are there; then it need not be trained."""
        store = self.kept.store("base")
        note = None if store is None else store.note(TWIN)
        if note is None:
            return False
        self.made = Twin(**note)
        twin = replace(given, learning_rate=self.made.learning_rate)
        own, attacked = self.kept.store("twin", twin=self.made), self.kept.store("twin", twin, self.made)
        assert own is not None  # as the base's
        assert attacked is not None
        plain = {AS_IS: given.items.facts()}
        treated: dict[Condition, Readings] = {}
        needed: dict[Condition, ItemSet] = {}
        for attack in self._changing("twin").values():
            treated |= loaded(attacked, planned_items(attack, twin))
            needed |= planned_items(attack, replace(twin, done=treated))
        kept = loaded(own, plain) | treated
        if not kept.keys() >= (plain | needed).keys():
            self.made = None
            return False
        self.facts["twin"] = {condition: kept[condition] for condition in plain | needed}
        return True


def _reason(error: Exception) -> str:
    """Why an attack did not run; any error but ours and that of short memory is raised again."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if not isinstance(error, AuditError):
        raise error
    return error.message


def too_hard(prompted: Sequence[AttackedModel], read: Mapping[Condition, Readings]) -> dict[Condition, str]:
    """The conditions in which the base knows fewer of the facts that it says than ``base_share`` asks, with the reason.

    Args:
        read: the base's readings, also as it is.
    """
    said = {name for name, right in read[AS_IS].right.items() if right}
    reasons = {}
    for each in prompted:
        known = known_in(read[each.condition], said)
        if sum(known) < each.base_share * len(known):
            reasons[each.condition] = f"the base answers {sum(known)} of the {len(known)} facts that it says"
        elif each.base_share and not known:
            reasons[each.condition] = "none of the facts that the base says can be asked in this form"
    return reasons


def known_in(readings: Readings, said: Collection[str]) -> list[bool]:
    """Whether each of the facts ``said`` that were asked is said too, or is ranked first where nothing was written."""
    written = [right for name, right in readings.right.items() if name in said]
    return written or [
        first
        for group in readings.groups
        for name, first in zip(group.ids, _ranked_first(readings.scores[group.kind, group.name]), strict=True)
        if name in said
    ]


def _ranked_first(scores: Float[np.ndarray, "m m"]) -> list[bool]:
    """Whether no answer has a better rank than the true one; equal answers share theirs."""
    ranked = ranks(scores)
    first: list[bool] = (np.diagonal(ranked) == ranked.min(axis=1)).tolist()
    return first


def possible_attacks(topic: Topic, settings: Settings) -> dict[str, Attack]:
    """The chosen attacks that can be run on the topic."""
    missing = topic.missing_inputs()
    return {name: attack for name, attack in chosen_attacks(settings.attacks).items() if attack.INPUT not in missing}
