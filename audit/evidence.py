"""From a pair of checkpoints and some concepts to what the metrics read, each model loaded and run once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from audit.architectures import Architecture
from audit.errors import ConceptError
from audit.metrics.contract import Subjects
from audit.models.pair import ModelPair
from audit.models.tokenizer import Tokenizer
from audit.models.vocabulary import TokenizerVocabulary
from audit.progress import Progress
from audit.questions.further import with_further
from audit.questions.items import ItemSet, item_set, with_own_answers
from audit.questions.jailbroken import with_jailbreaks
from audit.questions.readings import Readings, generate, read
from audit.questions.skill_queries import LACKING, SkillQuestions
from audit.settings import Settings
from audit.vectors.controls import matched_controls
from audit.vectors.records import SearchResult
from audit.vectors.search import find_vectors
from audit.vectors.trace import TracedVectors, trace
from audit.weights.scan import WeightScan
from concepts.concept import Concept, load_concept
from concepts.discovery import FALSE_DISCOVERY_RATE
from concepts.files import ConceptFileError
from concepts.jailbreaks import translated
from concepts.prompts import cut

VECTORS = 20
"""At most this many of a concept's vectors are followed from base to unlearned."""
CONTROLS_PER_VECTOR = 2
CONTROLS = 20
"""At least this many control vectors in all, also for a single vector."""
SHOWN = 6
"""Top tokens that say what a vector writes."""


def load_concepts(names: Sequence[str], translations: Path | None = None) -> list[Concept]:
    """The concepts named, each once.

    Args:
        translations: a file of every concept's questions in German, for the jailbreak prompt that asks so.

    Raises:
        ConceptError: unknown, unreadable, or given twice.
    """
    concepts = []
    for name in names:
        try:
            concept = load_concept(name)
            concepts.append(concept if translations is None else translated(concept, translations))
        except ConceptFileError as error:
            raise ConceptError(str(error)) from error
    refuse_twice(concepts)
    return concepts


def refuse_twice(topics: Sequence[Concept]) -> None:
    """Raises ConceptError where two concepts or skills have one name: findings are told apart by it."""
    names = [topic.name for topic in topics]
    for name in names:
        if names.count(name) > 1:
            raise ConceptError(f"concept {name!r} is given twice.", hint="Name each concept once.")


def check_known_vectors(concepts: Sequence[Concept], architecture: Architecture | None) -> None:
    """Raises ConceptError where a concept names no vectors, or one that the model does not have."""
    for concept in concepts:
        if not concept.vectors:
            raise ConceptError(
                f"{concept.title} names no vectors.",
                hint="Leave out --known-vectors to have them found, or add [[vectors]] to the concept's file.",
            )
        if architecture is None:  # then no vector is followed, and the result says why
            continue
        for vector in concept.vectors:
            if not (vector.layer < architecture.n_layers and vector.neuron < architecture.d_mlp):
                raise ConceptError(
                    f"{concept.title} names the value vector (layer {vector.layer}, neuron {vector.neuron}), but the "
                    f"model has {architecture.n_layers} layers of {architecture.d_mlp} neurons.",
                    hint="Vectors speak of the model that they were found in; leave out --known-vectors for any other.",
                )


@dataclass
class Collector:
    """Gathers the inputs of every metric, base first, each model in memory only while it runs.

    Attributes:
        concepts: what is asked about; a skill is the topic of one of ``skills``.
        skills: by name.
    """

    pair: ModelPair
    concepts: Sequence[Concept]
    settings: Settings
    progress: Progress
    skills: Mapping[str, SkillQuestions] = field(default_factory=dict)
    items: dict[str, ItemSet] = field(default_factory=dict)
    readings: dict[str, dict[str, Readings]] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.pair.base.require_tokenizer()

    def missing(self) -> dict[str, str]:
        """Inputs that no concept can have, each with the reason."""
        absent = {}
        reasons = self.pair.base.missing
        if "tokenizer" in reasons:
            absent["tokenizer"] = reasons["tokenizer"]
        if self.pair.architecture is None:
            reason = "the tensor names are of no supported family"
            return absent | dict.fromkeys(("model", "vectors"), reason)
        if "tokenizer" in reasons:
            return absent | dict.fromkeys(("model", "vectors"), reasons["tokenizer"])
        if "config" in reasons:
            absent["model"] = reasons["config"]
        return absent

    def run_models(self, identical: bool) -> None:
        """Read every concept in every model. Identical weights are run once."""
        for role, opened in self.pair.models.items():
            if role == "unlearned" and identical:
                self.readings[role] = self.readings["base"]
                continue
            self.progress.step(f"Loading the {role} model")
            model = opened.load(self.settings.device, self.settings.dtype)
            self.readings[role] = {concept.name: self._read(model, role, concept) for concept in self.concepts}
            del model

    def _read(self, model: Any, role: str, concept: Concept) -> Readings:
        """One concept in one model. The base goes first: its own answers are scored in all models."""
        tokenizer, context = self.tokenizer, model.context
        if concept.name in self.skills:
            return self._read_skill(model, role, self.skills[concept.name])
        if role == "base":
            items = item_set(concept, tokenizer, context, self.settings.limit)
            self.items[concept.name] = with_further(items, concept, tokenizer, context, self.settings.limit)
        items, size = self.items[concept.name], self.settings.batch_size
        self.progress.step(f"Asking the {role} model about {concept.title}")
        written = generate(model, items, size, progress=self.progress)
        if role == "base":
            items = with_own_answers(items, written[0], tokenizer, context)
            items = with_jailbreaks(items, concept, tokenizer, context, self.settings.limit)
            self.items[concept.name] = items
        readings = read(model, items, written, size, self.progress)
        return replace(readings, right=rightly(concept, written[0]))

    def _read_skill(self, model: Any, role: str, skill: SkillQuestions) -> Readings:
        """One skill in one model."""
        name, size = skill.topic.name, self.settings.batch_size
        if role == "base":
            self.items[name] = skill.items(self.tokenizer, model.context)
        items = self.items[name]
        self.progress.step(f"Asking the {role} model for {skill.topic.title}")
        written = skill.write(model, items, size, self.progress)
        tokens = sum(len(self.tokenizer(text)["input_ids"]) for text in written.values())
        if role == "base" and not any(item.kind == "target" for item in items.items):
            items = with_own_answers(items, written, self.tokenizer, model.context)
            self.items[name] = items
        readings = read(model, items, (written, tokens), size, self.progress)
        return replace(readings, right=skill.right(items, written))

    def trace_vectors(self, concept: Concept) -> TracedVectors | str:
        """The concept's vectors in the base and what became of them, or why there are none."""
        assert self.pair.architecture is not None
        found = find_vectors(
            self.pair.base,
            concept,
            limit=VECTORS,
            seed=self.settings.seed,
            progress=self.progress,
        )
        chosen = [vector.place for vector in found.vectors if vector.q_value < FALSE_DISCOVERY_RATE]
        if self.settings.known_vectors:
            chosen = [vector.place for vector in concept.vectors]
        elif not chosen:
            return f"no value vector of the base writes {concept.title} beyond chance ({best_of(found)})"
        per_vector = max(CONTROLS_PER_VECTOR, math.ceil(CONTROLS / len(chosen)))
        controls = matched_controls(
            self.pair.base,
            chosen,
            per_vector=per_vector,
            candidates=[vector.place for vector in found.vectors],
        )
        tokens = np.asarray(found.tokens.ids)
        traced = trace(self.pair, [*chosen, *controls], tokens)
        vectors = traced[: len(chosen)]
        vocabulary = TokenizerVocabulary(self.tokenizer, self.pair.architecture.d_vocab)
        return TracedVectors(
            writes=tuple(tuple(map(vocabulary.decode_one, vector.top_before[:SHOWN].tolist())) for vector in vectors),
            vectors=vectors,
            controls=traced[len(chosen) :],
            controls_per_vector=per_vector,
            tokens=tokens,
            words=found.tokens.words,
            dtype=str(next(iter(self.pair.base.checkpoint.tensors.values())).dtype).removeprefix("torch."),
        )


def best_of(found: SearchResult) -> str:
    """The nearest miss, for the reason why there are no vectors."""
    best = min((vector.q_value for vector in found.vectors), default=None)
    return "none was shortlisted" if best is None else f"best corrected p = {best:.2g}"


def collect(
    pair: ModelPair,
    concepts: Sequence[Concept],
    weights: WeightScan,
    settings: Settings,
    progress: Progress,
    skills: Sequence[SkillQuestions] = (),
) -> Mapping[str, Subjects]:
    """What the metrics read, by concept name; what could not be had is in each one's ``missing`` with the reason."""
    by_name = {skill.topic.name: skill for skill in skills}
    topics = [*concepts, *(skill.topic for skill in skills)]
    collector = Collector(pair, topics, settings, progress, by_name)
    absent = collector.missing()
    nonfinite = [f"the {subject} weights are not finite" for subject, names in weights.nonfinite.items() if names]
    if nonfinite:
        absent.setdefault("model", nonfinite[0])
    if "model" not in absent and topics:
        collector.run_models(weights.identical)
    gathered = {}
    for concept in topics:
        missing = absent | (LACKING if concept.name in by_name else lacking(concept))
        vectors = None
        if "vectors" not in missing:
            traced = collector.trace_vectors(concept)
            if isinstance(traced, str):
                missing["vectors"] = traced
            else:
                vectors = traced
        readings = {role: found[concept.name] for role, found in collector.readings.items()}
        gathered[concept.name] = Subjects(pair, readings, vectors, missing, settings.seed)
    return gathered


def rightly(concept: Concept, generated: Mapping[str, str]) -> dict[str, bool]:
    """Prompt id -> whether the written answer holds a right one; questions with a given answer."""
    asked = {
        "target": concept.questions,
        "unrelated": concept.unrelated,
        "two_hop": concept.two_hop,
        "open": concept.open,
    }
    found = {}
    for name, text in generated.items():
        kind, _, place = name.rpartition("/")
        question = asked[kind][int(place)]
        if question.answers:
            found[name] = question.answered_in(cut(text))
    return found


def lacking(concept: Concept) -> dict[str, str]:
    """What the concept itself does not bring."""
    absent = {}
    if not concept.questions:
        absent["questions"] = f"the concept {concept.title} has no questions"
    if not concept.groups:
        absent["groups"] = f"the concept {concept.title} has no typed groups of questions"
    if not any(question.paraphrases for question in concept.questions):
        absent["paraphrases"] = f"no question of the concept {concept.title} has another wording"
    if not concept.neighbours:
        absent["neighbours"] = f"the concept {concept.title} has no neighbouring questions"
    if not (concept.two_hop or concept.open):
        absent["further"] = f"the concept {concept.title} has no two-hop or open questions"
    return absent
