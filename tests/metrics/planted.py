"""Synthetic readings: a base with the knowledge, and models in which it is present, hidden, inverted or removed.

*Hidden*: the answers do not show it, as after refusal training, but the inner layers and the key space are nearly those
of the base. *Inverted*: the truth is pushed below its alternatives. *Removed*: as if it had never been learned.
*Destroyed*: the model has lost unrelated knowledge as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from audit.metrics.contract import Evidence
from audit.questions.conditions import AS_IS
from audit.questions.items import FACT, FactGroup, Item
from audit.questions.readings import Readings
from audit.questions.topics import ConceptTopic
from concepts.concept import Concept

Case = Literal["present", "hidden", "inverted", "removed", "destroyed"]

N, N_LAYERS, D_MLP, M = 12, 3, 16, 8
CONCEPT = Concept(name="italy", title="Italy", seeds=("Italy",))
TYPES = ("capital", "river", "city")


def group(kind: str, name: str, m: int = M, start: int = 0) -> FactGroup:
    """A group of ``m`` questions with one token as the answer to each."""
    return FactGroup(
        name=name,
        kind=kind,
        ids=tuple(f"{kind}/{start + row}" for row in range(m)),
        subjects=tuple(f"subject {start + row}" for row in range(m)),
        answers=tuple(f"answer {row}" for row in range(m)),
        prompt_ids=tuple((row,) for row in range(m)),
        beginnings=((),),
        paths=tuple(((0, row),) for row in range(m)),
        answer_ids=tuple((row,) for row in range(m)),
    )


FACTS = tuple(group(FACT, name, start=M * place) for place, name in enumerate(TYPES))
CONTROLS = tuple(group("group", name, start=M * place) for place, name in enumerate(TYPES))
GROUPS = (*FACTS, *CONTROLS)
KINDS: tuple[str, ...] = ("target", "unrelated", "target_own", "unrelated_own", "text")
ANSWER = {
    "present": "the city of {} lies there",
    "hidden": "I do not know",
    "inverted": "never that",
    "removed": "a",
    "destroyed": "",
}
LOGPROB = {"present": -0.2, "hidden": -5.0, "inverted": -15.0, "removed": -7.0, "destroyed": -40.0}
OUTPUT_SCORE = {"present": 8.0, "hidden": 0.0, "inverted": -6.0, "removed": 0.0, "destroyed": 0.0}
LENS_SCORE = {"present": 8.0, "hidden": 8.0, "inverted": 0.0, "removed": 0.0, "destroyed": 0.0}


def item(kind: str, index: int, tokens: int = 3) -> Item:
    question = f"{kind.split('_')[0]} {index}?"
    return Item(f"{kind}/{index}", kind, question, f"answer {index}", (1,), tuple(range(tokens)), index)


def readings(case: Case, seed: int = 0, **changes: Any) -> Readings:
    """The readings of one model; the noise depends on the seed alone."""
    rng = np.random.default_rng(seed)
    items = tuple(item(kind, index) for kind in KINDS for index in range(N))
    noise = rng.normal(0, 0.05, (len(items), 3))
    concept = np.array([entry.kind.startswith("target") for entry in items])
    broken = case == "destroyed"
    level = np.where(concept, LOGPROB[case], LOGPROB["destroyed"] if broken else LOGPROB["present"])
    correct = np.where(concept, case == "present", not broken)
    fields: dict[str, Any] = {
        "items": items,
        "answer_logprobs": tuple(level[:, None] + noise),
        "answer_hits": tuple(np.full(3, bool(hit)) for hit in correct),
        "keys": _keys(case, seed),
        "groups": GROUPS,
        "scores": {(each.kind, each.name): _scores(rng, each, OUTPUT_SCORE[case], broken) for each in GROUPS},
        "lens": {
            (each.kind, each.name): np.stack(
                [
                    _scores(rng, each, 0.0, broken),
                    _scores(rng, each, LENS_SCORE[case], broken),
                    _scores(rng, each, OUTPUT_SCORE[case], broken),
                ]
            )
            for each in GROUPS
        },
        "prompts": {f"{kind}/{index}": f"{kind} {index}?" for kind in ("target", "unrelated") for index in range(N)},
        "generated": {
            f"{kind}/{index}": ANSWER[case if kind == "target" or broken else "present"].format(f"city{index}")
            for kind in ("target", "unrelated")
            for index in range(N)
        },
        "right": {
            f"{kind}/{index}": not broken and (kind == "unrelated" or case == "present")
            for kind in ("target", "unrelated")
            for index in range(N)
        },
    }
    return Readings(**(fields | changes))


def evidence(case: Case, **roles: Readings) -> Evidence:
    """The base and, as the unlearned model, ``case``; ``roles`` replaces or adds models."""
    return evidence_of({"base": readings("present"), "unlearned": readings(case), **roles})


def evidence_of(readings: Mapping[str, Readings], **fields: Any) -> Evidence:
    """The readings under ``AS_IS``; the metrics under test do not read the pair."""
    return Evidence(pair=None, topic=ConceptTopic(CONCEPT), by_condition={AS_IS: readings}, **fields)  # type: ignore[arg-type]


def _scores(rng: np.random.Generator, of: FactGroup, about: float, broken: bool) -> Float[np.ndarray, "m m"]:
    """Noise, question effects, answer effects, and the truth: ``about`` for facts, 8 for controls."""
    scores = rng.normal(0, 1, (M, M)) + rng.normal(0, 3, (M, 1)) + rng.normal(0, 3, (1, M))
    truth = about if of.kind == FACT else 0.0 if broken else 8.0
    return scores + truth * np.eye(M)


def _keys(case: Case, seed: int) -> dict[str, np.ndarray]:
    """Key vectors: the concept's are separate from unrelated ones except where it was removed or destroyed."""
    rng = np.random.default_rng(seed + 1)
    target, unrelated = rng.normal(0, 1, (2, N, N_LAYERS, D_MLP))
    separation = {"present": 3.0, "hidden": 2.5, "inverted": 2.0, "removed": 0.0, "destroyed": 0.0}[case]
    direction = rng.normal(0, 1, (N_LAYERS, D_MLP))
    return {"target": (target + separation * direction).astype(np.float32), "unrelated": unrelated.astype(np.float32)}
