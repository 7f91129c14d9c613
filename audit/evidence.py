"""Gathers the evidence that the metrics read from a pair of models and some topics; each model is loaded once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from audit.architectures import Architecture
from audit.errors import ConceptError
from audit.metrics.contract import Evidence
from audit.models.opening import OpenedModel
from audit.models.pair import ModelPair
from audit.models.vocabulary import TokenizerVocabulary
from audit.patching.collect import PatchCollector, not_collected
from audit.progress import Progress
from audit.questions.topics import Topic
from audit.request import RunContext
from audit.settings import Settings
from audit.topic_reader import TopicReader, TopicReadings
from audit.vectors.controls import matched_controls
from audit.vectors.records import SearchResult
from audit.vectors.search import find_vectors
from audit.vectors.trace import TracedVectors, trace
from audit.weights.scan import WeightScan
from concepts.concept import Concept
from concepts.discovery import FALSE_DISCOVERY_RATE

VECTORS: Final = 20
"""Maximum number of a concept's vectors that are traced from base to unlearned."""
CONTROLS_PER_VECTOR: Final = 2
CONTROLS: Final = 20
"""Minimum number of control vectors in total, even for a single vector."""
SHOWN: Final = 6
"""Number of top tokens that describe what a vector writes."""


def check_known_vectors(topics: Sequence[Topic], architecture: Architecture | None) -> None:
    """Raises ConceptError if a concept's file names no vectors, or a vector that the model does not have."""
    for concept in (topic.concept for topic in topics if topic.concept is not None):
        if not concept.vectors:
            raise ConceptError(
                f"{concept.title} names no vectors.",
                hint="Omit --known-vectors to search for them, or add [[vectors]] to the concept's file.",
            )
        if architecture is None:  # then no vector is traced, and the result gives the reason
            continue
        for vector in concept.vectors:
            if not (vector.layer < architecture.n_layers and vector.neuron < architecture.d_mlp):
                raise ConceptError(
                    f"{concept.title} names the value vector (layer {vector.layer}, neuron {vector.neuron}), but the "
                    f"model has {architecture.n_layers} layers of {architecture.d_mlp} neurons.",
                    hint="The vectors belong to the model in which they were found; omit --known-vectors for others.",
                )


def gather(pair: ModelPair, topics: Sequence[Topic], weights: WeightScan, context: RunContext) -> dict[str, Evidence]:
    """Topic name -> its evidence; inputs that do not exist are in ``missing`` with the reason.

    Models with non-finite weights are not run; identical models are run once.
    """
    settings, progress = context.settings, context.progress
    pair_missing = missing_inputs(pair)
    broken = [f"the {role} weights are not finite" for role, names in weights.nonfinite.items() if names]
    if broken:
        pair_missing.setdefault("model", broken[0])
    by_topic: Mapping[str, TopicReadings] = {}
    if "model" not in pair_missing and topics:
        by_topic = read_models(pair, topics, weights, context)
    evidence = {}
    for topic in topics:
        missing = pair_missing | dict(topic.missing_inputs()) | not_collected(settings, weights.identical)
        vectors = None
        if "vectors" not in missing:
            assert topic.concept is not None  # otherwise vectors are missing
            traced = trace_vectors(pair, topic.concept, settings, progress)
            if isinstance(traced, str):
                missing["vectors"] = traced
            else:
                vectors = traced
        read = by_topic.get(topic.name, TopicReadings())
        patching = read.collected
        if isinstance(patching, str):
            missing.setdefault("patching", patching)
        evidence[topic.name] = Evidence(
            pair,
            topic,
            read.by_condition,
            vectors,
            missing,
            settings.seed,
            others={"reference": read.reference, "twin": read.twin},
            twin=read.made,
            not_run=read.not_run,
            patching=None if isinstance(patching, str) else patching,
        )
    return evidence


def missing_inputs(pair: ModelPair) -> dict[str, str]:
    """Inputs that are missing for every topic -> the reason."""
    reasons = pair.base.missing
    missing = {"tokenizer": reasons["tokenizer"]} if "tokenizer" in reasons else {}
    if pair.architecture is None:
        return missing | dict.fromkeys(("model", "vectors"), "the tensor names are of no supported family")
    if "tokenizer" in reasons:
        return missing | dict.fromkeys(("model", "vectors"), reasons["tokenizer"])
    return missing | ({"model": reasons["config"]} if "config" in reasons else {})


# ---- vectors


def trace_vectors(pair: ModelPair, concept: Concept, settings: Settings, progress: Progress) -> TracedVectors | str:
    """The concept's vectors in the base and in the unlearned model, or the reason why there are none."""
    base = pair.base
    try:
        search = find_vectors(base, concept, limit=VECTORS, seed=settings.seed, progress=progress)
    except ConceptError as error:  # its words are no tokens of this vocabulary; everything else can be measured
        return error.message
    chosen = [vector.place for vector in search.vectors if vector.q_value < FALSE_DISCOVERY_RATE]
    if settings.known_vectors:
        chosen = [vector.place for vector in concept.vectors]
    elif not chosen:
        return f"no value vector of the base writes {concept.title} beyond chance ({best_of(search)})"
    per_vector = max(CONTROLS_PER_VECTOR, math.ceil(CONTROLS / len(chosen)))
    candidates = [vector.place for vector in search.vectors]
    controls = matched_controls(base, chosen, per_vector=per_vector, candidates=candidates)
    tokens = np.asarray(search.tokens.ids)
    traced = trace(pair, [*chosen, *controls], tokens)
    vectors = traced[: len(chosen)]
    vocabulary = TokenizerVocabulary(base.require_tokenizer(), base.require_architecture().d_vocab)
    return TracedVectors(
        writes=tuple(tuple(map(vocabulary.decode_one, vector.top_before[:SHOWN].tolist())) for vector in vectors),
        vectors=vectors,
        controls=traced[len(chosen) :],
        controls_per_vector=per_vector,
        tokens=tokens,
        words=search.tokens.words,
        dtype=str(next(iter(base.checkpoint.tensors.values())).dtype).removeprefix("torch."),
    )


def best_of(search: SearchResult) -> str:
    """The smallest corrected p-value, for the reason why there are no vectors."""
    best = min((vector.q_value for vector in search.vectors), default=None)
    return "none was shortlisted" if best is None else f"best corrected p = {best:.2g}"


# ---- readings


def read_models(
    pair: ModelPair, topics: Sequence[Topic], weights: WeightScan, context: RunContext
) -> dict[str, TopicReadings]:
    """Topic name -> its readings. The base runs first; each model is in memory only while it runs."""
    update = next((row.value for row in weights.weights.measurements if row.metric == "weight_change"), None)
    digests = _digests(pair, context)
    readers = {
        topic.name: TopicReader(topic, context, digests, update, _collector(pair, topic, weights.identical, context))
        for topic in topics
    }
    for role, opened in pair.models.items():
        if role == "unlearned" and weights.identical:
            for reader in readers.values():
                reader.repeat("base", role)
            continue
        context.progress.step(f"Loading the {role} model")
        model = opened.load(context.settings.device, context.settings.dtype)
        for topic in topics:
            context.progress.step(f"Asking the {role} model about {topic.title}")
            readers[topic.name].read(model, role)
        del model
    _finish(pair, list(readers.values()), context)
    if pair.reference is not None and any(topic.concept is not None for topic in topics):
        context.progress.step("Loading the reference model")
        model = pair.reference.load(context.settings.device, context.settings.dtype)
        for topic in (topic for topic in topics if topic.concept is not None):
            context.progress.step(f"Asking the reference model about {topic.title}")
            readers[topic.name].read_reference(model)
        del model
    return {name: reader.readings() for name, reader in readers.items()}


def _digests(pair: ModelPair, context: RunContext) -> dict[str, list[str]]:
    """Role -> SHA-256 of the model's files, if finished units are kept."""
    models: dict[str, OpenedModel] = dict(pair.models.items())
    if pair.reference is not None:
        models["reference"] = pair.reference
    if context.units is None:
        return {}
    return {role: [file.sha256 for file in opened.checkpoint.file_records()] for role, opened in models.items()}


def _collector(pair: ModelPair, topic: Topic, identical: bool, context: RunContext) -> PatchCollector | None:
    """The collector of patching, if it is asked for and the topic has facts."""
    if not_collected(context.settings, identical) or "facts" in topic.missing_inputs():
        return None
    return PatchCollector(pair.base.checkpoint, pair.unlearned.checkpoint, context.settings, context.progress)


def _finish(pair: ModelPair, readers: Sequence[TopicReader], context: RunContext) -> None:
    """Load the base once more for the collectors that want it."""
    waiting = [reader.collector for reader in readers if reader.collector is not None and reader.collector.wants_base]
    if waiting:
        context.progress.step("Loading the base model again")
        base = pair.base.load(context.settings.device, context.settings.dtype)
        for collector in waiting:
            collector.finish(base)
