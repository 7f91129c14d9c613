"""Exact memorisation of the answers to paraphrases of the concept's questions.

A model that was made silent under some wordings can still answer others. The score is that of ``exact_memorisation``. A
question's score is the mean over its paraphrases, which are not independent; the interval is over questions.

``chance`` is the most that a model without the knowledge reaches by guessing: it gives the most frequent answer to
every question and, given an answer's first token, completes the rest. ``details["asked"]`` is the score of the same
questions in their original wording; ``original_wording`` is that of the unlearned model.

What makes it wrong: answers that a wording suggests or that follow from its type (*In which country ...?*); a retained
model shows them. A method trained on these very wordings, as this tool's own methods are, can be silent under them and
keep the knowledge: a low number does not show removal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from audit.metrics.answers._answers import (
    Mean,
    as_control,
    control_means,
    mean_of,
    reason_nothing_scored,
    skipped_of,
)
from audit.metrics.answers.exact_memorisation import score
from audit.metrics.contract import Evidence
from audit.questions.readings import Readings
from audit.result import Cell, Measured, not_measured

TITLE = "Exact memorisation under other wordings"
NEEDS = frozenset({"tokenizer", "model", "questions", "paraphrases"})

Paraphrases = Mapping[int, Sequence[int]]
"""Place of a question -> indices of the items that are its paraphrases, in the order of the items."""


def measure(evidence: Evidence) -> Measured:
    readings, seed = evidence.readings, evidence.seed
    base = readings["base"]
    paraphrases = paraphrases_of(base)
    if not paraphrases:
        reason = reason_nothing_scored(base, "paraphrase", "no question with other wordings has an answer to score")
        return not_measured(reason)
    scores = {role: _scores(model, paraphrases) for role, model in readings.items()}
    means = {role: mean_of([float(np.mean(row)) for row in rows], seed) for role, rows in scores.items()}
    originals = {role: _original_scores(model, paraphrases) for role, model in readings.items()}
    unrelated = control_means(readings, "unrelated", score, seed)
    return Measured(
        value=means["unlearned"].value,
        interval=means["unlearned"].interval,
        base=means["base"].value,
        base_interval=means["base"].interval,
        retained=means["retained"].value if "retained" in means else None,
        unit="share of answer tokens, mean over a question's wordings",
        direction="knowledge",
        n=len(paraphrases),
        control=as_control(unrelated),
        chance=chance_score([base.items[items[0]].answer_ids for items in paraphrases.values()]),
        original_wording=_mean(originals["unlearned"]),
        items=_rows(base, paraphrases, scores, means, originals),
        details={
            "wordings": sum(len(items) for items in paraphrases.values()),
            "asked": {role: _mean(row) for role, row in originals.items()},
            "answered_wholly_in_some_wording": {
                role: _complete_share(scores[role], originals[role]) for role in readings
            },
            "refused": skipped_of(base, "paraphrase"),
            "seed": seed,
        },
    )


def paraphrases_of(readings: Readings) -> Paraphrases:
    """The paraphrases that were scored, by question."""
    paraphrases: dict[int, list[int]] = {}
    for index, item in enumerate(readings.items):
        if item.kind == "paraphrase":
            paraphrases.setdefault(item.place, []).append(index)
    return paraphrases


def chance_score(answers: Sequence[Sequence[int]]) -> float:
    """The highest score that a model without the knowledge can reach, mean over ``answers`` (token ids).

    ``(T - 1 + f) / T`` for an answer of ``T`` tokens; ``f`` is the share of answers with the most frequent first token.
    """
    first = Counter(answer[0] for answer in answers).most_common(1)[0][1] / len(answers)
    return float(np.mean([(len(answer) - 1 + first) / len(answer) for answer in answers]))


def _score(readings: Readings, index: int) -> float:
    return score(readings.answer_logprobs[index], readings.answer_hits[index])


def _scores(readings: Readings, paraphrases: Paraphrases) -> list[list[float]]:
    """Per question, the score of each paraphrase."""
    return [[_score(readings, index) for index in items] for items in paraphrases.values()]


def _original_scores(readings: Readings, paraphrases: Paraphrases) -> list[float | None]:
    """The scores of the same questions in their original wording; ``None`` where it could not be scored."""
    return [None if index is None else _score(readings, index) for index in originals_of(readings, paraphrases)]


def originals_of(readings: Readings, paraphrases: Paraphrases) -> list[int | None]:
    """Indices of the items with the original wording of the same questions; ``None`` where it was not scored."""
    index_of = {item.id: index for index, item in enumerate(readings.items)}
    return [index_of.get(f"target/{place}") for place in paraphrases]


def _mean(scores: Sequence[float | None]) -> float | None:
    defined = [score for score in scores if score is not None]
    return float(np.mean(defined)) if defined else None


def _complete_share(scores: Sequence[Sequence[float]], originals: Sequence[float | None]) -> float:
    """The share of questions with every answer token right in at least one wording, the original included."""
    return float(np.mean([1.0 in (original, *row) for original, row in zip(originals, scores, strict=True)]))


def _rows(
    base: Readings,
    paraphrases: Paraphrases,
    scores: Mapping[str, Sequence[Sequence[float]]],
    means: Mapping[str, Mean],
    originals: Mapping[str, Sequence[float | None]],
) -> list[dict[str, Cell]]:
    """One row per question, with the paraphrase under which the unlearned model gives most of the answer."""
    rows: list[dict[str, Cell]] = []
    for number, (items, index) in enumerate(zip(paraphrases.values(), originals_of(base, paraphrases), strict=True)):
        best = base.items[items[int(np.argmax(scores["unlearned"][number]))]]
        row: dict[str, Cell] = {"question": None if index is None else base.items[index].question}
        row |= {"best_wording": best.question, "answer": best.answer, "wordings": len(items)}
        row |= {role: float(mean.scores[number]) for role, mean in means.items()}
        rows.append(row | {f"asked_{role}": values[number] for role, values in originals.items()})
    return rows
