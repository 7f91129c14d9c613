"""The ConceptVectors study on SmolLM2: whether unlearning removes a concept from the weights, and what recovers it.

For each concept the base is unlearned by the gradient methods (GA, GradDiff, NPO, DPO), by training the concept's value
vectors alone (needle) and by ablating them (noise, zero). The columns are those of the paper: cosine, L2 distance and
Jaccard of the vectors; the answers to the concept's questions, to unrelated ones and the continuation of its text (BLEU
and ROUGE-L against the base's own); recovery by jailbreak prompts; and how much of the answers goes through the vectors
as directions of the residual stream. Relabelling, which teaches what to say instead, is a control for the last; it is
also trained on the questions themselves. The vectors are the set that ``audit find --validate`` chose; half of these
questions were not used for its choice.

Each concept and method is cached under ``audit-report/concepts/``, so that an interrupted run continues.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from audit.attacks import AttackInput, jailbreaks
from audit.commands.demo import NEEDLE, model_folder
from audit.commands.unlearn import examples_of
from audit.evidence import SHOWN
from audit.interventions import EditInputs, apply, methods, needle, stored_rows
from audit.metrics import measure
from audit.metrics.contract import Evidence
from audit.models.generation import greedy
from audit.models.loading import RunningModel
from audit.models.opening import open_model
from audit.models.packing import Example
from audit.progress import SILENT
from audit.questions.conditions import AS_IS, Condition
from audit.questions.items import Encoder, ItemSet
from audit.questions.readings import generate, read_conditions
from audit.questions.topics import ConceptTopic
from audit.settings import Settings as AuditSettings
from audit.settings import default_cache
from audit.statistics import bootstrap_interval
from audit.unlearning.methods import dpo, grad_diff, gradient_ascent, npo, relabelling
from audit.unlearning.methods import methods as unlearning_methods
from audit.unlearning.training import TrainingSettings
from audit.unlearning.training_examples import TrainingExamples, training_examples
from audit.vectors.attribution import concept_attribution
from audit.vectors.controls import matched_controls
from audit.vectors.search import find_vectors
from audit.vectors.trace import Projected, TracedVectors, join, project
from benchmarks.causal import validated
from benchmarks.record import publish
from concepts.concept import Concept, load_concept
from concepts.discovery import FALSE_DISCOVERY_RATE
from concepts.neuron import Neuron
from concepts.prompts import answer_text, few_shot
from concepts.similarity import bleu, rouge_l

CONCEPTS = ("italy", "france", "dogs", "music", "months", "diabetes", "germany", "chemistry", "planets", "computers")
CACHE = Path("audit-report/concepts")
QUESTIONS = 10
"""Questions of each kind, about the concept and unrelated."""
PASSAGES = 6
"""Sentences of the concept's text that are continued."""
CONTINUED = 24
"""Number of tokens generated for each."""

LEARNING_RATES: Final[Mapping[str, tuple[TrainingSettings, float]]] = {
    "gradient_ascent": (gradient_ascent.SETTINGS, 1e-5),
    "grad_diff": (grad_diff.SETTINGS, 4e-5),
    "npo": (npo.SETTINGS, 6e-5),
    "dpo": (dpo.SETTINGS, 8e-5),
    "relabelling": (relabelling.SETTINGS, 8e-5),
}
TRAINING: Mapping[str, TrainingSettings] = {
    method: replace(settings, learning_rate=learning_rate, steps=10, forget_batch=4, retain_batch=8, warmup=3)
    for method, (settings, learning_rate) in LEARNING_RATES.items()
}
EDITS = ("needle", "noise", "zero")
METRICS = (
    "vector_cosine",
    "vector_l2",
    "vector_jaccard",
    "bleu",
    "rouge_l",
    "answer_log_probability",
    "unrelated_log_probability",
    "perplexity",
    "jailbreak_recovery",
)


def main(names: Sequence[str]) -> None:
    """One row for each method: means over concepts with bootstrap intervals over concepts."""
    documents = [study(name) for name in names or CONCEPTS]
    rows = [table_row(method, documents) for method in (*TRAINING, *EDITS)]
    publish("concepts", rows, f"means over {len(documents)} concepts: {', '.join(names or CONCEPTS)}")


def study(name: str) -> dict[str, Any]:
    """Method -> its measurements for one concept; cached."""
    wanted = (*TRAINING, *EDITS)
    cached = {method: CACHE / f"{name}-{method}.json" for method in wanted}
    if not all(file.is_file() for file in cached.values()):
        subject = Subject(name)
        for method, file in cached.items():
            if file.is_file():
                continue
            start = time.perf_counter()
            document = subject.measured(method)
            document["seconds"] = time.perf_counter() - start
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(document, indent=1), encoding="utf-8")
            print(f"{name} {method}: {document['seconds']:.0f} s", file=sys.stderr, flush=True)
    return {method: json.loads(file.read_text(encoding="utf-8")) for method, file in cached.items()}


class Subject:
    """One concept in the base, and in the base after each method."""

    def __init__(self, name: str) -> None:
        folder = model_folder(default_cache())
        self.concept: Concept = load_concept(name)
        opened = open_model(folder)
        self.model: RunningModel = opened.load()
        tokenizer = self.model.tokenizer
        self.stored = {key: value.clone() for key, value in self.model.model.state_dict().items()}
        self.examples: TrainingExamples = training_examples(self.concept)
        self.search = find_vectors(opened, self.concept)
        self.neurons = self.chosen(validated(name, folder))
        self.places = [*self.neurons, *matched_controls(opened, self.neurons, per_vector=2)]
        self.tokens = np.asarray(self.search.tokens.ids)
        self.topic = ConceptTopic(self.concept)
        encoder = Encoder(tokenizer, self.model.context)
        items = self.topic.items(encoder, QUESTIONS)
        written, _ = generate(self.model, items)
        items = self.topic.with_own_answers(items, written, encoder)
        given = AttackInput(self.model, encoder, self.topic, items, AuditSettings())
        self.items: dict[Condition, ItemSet] = {AS_IS: items}
        self.items |= {each.condition: each.items for each in jailbreaks.conditions(given)}
        self.base = read_conditions(self.model, self.items, {AS_IS: written})
        self.vectors: Projected = self.projected()
        tops = self.vectors.top[: len(self.neurons), :SHOWN].tolist()
        self.writes = tuple(tuple(tokenizer.decode([token]) for token in top) for top in tops)
        self.directions = self.rows_of(self.neurons)
        self.through = self.attributed()
        self.passages = self.continued()

    def chosen(self, document: Mapping[str, Any]) -> list[Neuron]:
        """The validated set if it is specific, else the vectors that write the concept."""
        chosen = (document.get("effect") or {}).get("set")
        if chosen and chosen["specific"]:
            listed = {vector.place: vector.place for vector in self.search.vectors}  # with their signs
            neurons = [Neuron(row["layer"], row["neuron"]) for row in chosen["vectors"]]
            return [listed.get(place, place) for place in neurons]
        return [vector.place for vector in self.search.vectors if vector.q_value < FALSE_DISCOVERY_RATE]

    def measured(self, method: str) -> dict[str, Any]:
        """Unlearn by ``method``, measure, and restore the weights."""
        try:
            self.unlearn(method)
            written, _ = generate(self.model, self.items[AS_IS])
            unlearned = read_conditions(self.model, self.items, {AS_IS: written})
            read = {each: {"base": self.base[each], "unlearned": unlearned[each]} for each in self.items}
            evidence = Evidence(None, self.topic, read, self.traced())  # type: ignore[arg-type]  # no metric reads files
            measurements = {name: measure(name, evidence) for name in METRICS}
            passages = self.continued()
            through = self.attributed()
        finally:
            self.model.model.load_state_dict(self.stored)
        return {
            "concept": self.concept.name,
            "method": method,
            "settings": TRAINING[method].as_json() if method in TRAINING else {},
            "vectors": [[place.layer, place.neuron] for place in self.neurons],
            **{name: value.model_dump(mode="json", exclude={"items"}) for name, value in measurements.items()},
            "completion_bleu": compared(bleu, self.passages, passages),
            "completion_rouge_l": compared(rouge_l, self.passages, passages),
            "through_vectors": {"value": through, "base": self.through},
        }

    def unlearn(self, method: str) -> None:
        forget, retain = self.examples.forget, self.examples.retain
        if method == "relabelling":
            forget = examples_of(self.concept)  # with their types
        if method in TRAINING:
            unlearning_methods()[method].unlearn(self.model, forget, retain, TRAINING[method], SILENT)
        elif method == "needle":
            needle.edit(self.model, self.neurons, forget, retain, NEEDLE, erase=True)
        else:
            head = self.model.model.get_output_embeddings().weight.detach()
            apply(self.model, methods()[method].target(self.model, self.neurons, EditInputs(self.tokens, head)))

    def projected(self) -> Projected:
        """The current vectors and their controls."""
        head = self.model.model.get_output_embeddings().weight.detach()
        return project(self.rows_of(self.places), head, self.places, self.tokens)

    def rows_of(self, places: Sequence[Neuron]) -> torch.Tensor:
        """The value vectors that are at these places now."""
        rows = {
            Neuron(layer, neuron): value
            for layer, stored in stored_rows(self.model, places).items()
            for neuron, value in zip(stored.neurons, stored.values, strict=True)
        }
        return torch.stack([rows[place] for place in places])

    def attributed(self) -> float:
        """What the base's vectors contribute to the answers, as coordinates of the stream above the last of them.

        In nats per token, more than in unrelated questions.
        """
        questions, unrelated = (
            [
                Example(few_shot(each.question, self.concept.seeds, self.concept.examples), answer_text(each.answer))
                for each in asked[:QUESTIONS]
                if each.answer is not None
            ]
            for asked in (self.concept.questions, self.concept.unrelated)
        )
        layer = max(place.layer for place in self.neurons)
        return concept_attribution(self.model, questions, unrelated, layer, self.directions).effect

    def traced(self) -> TracedVectors:
        traced = join(self.places, self.vectors, self.projected())
        n = len(self.neurons)
        return TracedVectors(self.writes, traced[:n], traced[n:], 2, self.tokens, self.search.tokens.words, "float32")

    def continued(self) -> list[str]:
        """The model's continuations of the first half of each sentence of the text."""
        halves = [words[: len(words) // 2] for words in map(str.split, self.concept.text.split(". "))][:PASSAGES]
        prompts = [tuple(self.model.tokenizer(" ".join(half))["input_ids"]) for half in halves]
        return [self.model.tokenizer.decode(ids) for ids in greedy(self.model, prompts, CONTINUED)]


def compared(
    similarity: Callable[[str, str], float | None], base: Sequence[str], other: Sequence[str]
) -> dict[str, Any]:
    """Mean similarity of continuations to the base's, with its interval."""
    values = [similarity(one, two) for one, two in zip(base, other, strict=True)]
    known = np.array([value for value in values if value is not None])
    interval = bootstrap_interval(known, seed=0) if known.size else None
    return {"value": float(known.mean()) if known.size else None, "interval": interval, "n": int(known.size)}


def table_row(method: str, documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over concepts, each with its interval over concepts."""

    def mean(value: Callable[[Mapping[str, Any]], float | None]) -> str:
        values = np.array([number for one in documents if (number := value(one[method])) is not None])
        if not values.size:
            return "not measured"
        low, high = bootstrap_interval(values, seed=0) or (np.nan, np.nan)
        return f"{values.mean():.3g} [{low:.3g}, {high:.3g}]"

    def fall(one: Mapping[str, Any], metric: str) -> float | None:
        measured = one.get(metric)  # kept from a run that did not measure it yet
        return None if measured is None or measured["value"] is None else measured["base"] - measured["value"]

    return {
        "method": method,
        "cosine": mean(lambda one: one["vector_cosine"]["value"]),
        "L2": mean(lambda one: one["vector_l2"]["value"]),
        "Jaccard": mean(lambda one: one["vector_jaccard"]["value"]),
        "target BLEU": mean(lambda one: one["bleu"]["value"]),
        "target ROUGE-L": mean(lambda one: one["rouge_l"]["value"]),
        "unrelated ROUGE-L": mean(lambda one: (one["rouge_l"]["control"] or {}).get("value")),
        "completion ROUGE-L": mean(lambda one: one["completion_rouge_l"]["value"]),
        "target fall, nats": mean(lambda one: fall(one, "answer_log_probability")),
        "unrelated fall, nats": mean(lambda one: fall(one, "unrelated_log_probability")),
        "perplexity, times": mean(lambda one: one["perplexity"]["value"] / one["perplexity"]["base"]),
        "through the vectors, nats": mean(lambda one: fall(one, "through_vectors")),
        "jailbreak recovery": mean(lambda one: one["jailbreak_recovery"]["value"]),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
