"""Exact memorisation of the answers where the concept's questions are put in other words.

A model that was made silent to some wordings still answers others. The score is that of ``exact_memorisation``; a
question's is the mean over its other wordings, which are not independent, and the interval is over questions.

``chance`` is the most that a model without the knowledge reaches by guessing: it says the commonest
answer to every question and, once given an answer's first token, spells out the rest. ``details["asked"]`` is the same
score of the same questions in their first wording; ``original_wording`` is the unlearned model's.

What makes it wrong: answers that a wording suggests, or that follow from its type (*In which country ...?*); a retained
model shows them. A method that was trained on these very wordings, as this tool's own are, can be silent under them and
know; a low number is no evidence of removal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from audit.metrics.answers._answers import Mean, as_control, control_means, mean_of, refused, why_none
from audit.metrics.answers.exact_memorisation import score
from audit.metrics.contract import Evidence
from audit.questions.readings import Readings
from audit.result import Cell, Measured, not_measured

TITLE = "Exact memorisation under other wordings"
NEEDS = frozenset({"tokenizer", "model", "questions", "paraphrases"})

Wordings = Mapping[int, Sequence[int]]
"""Place of a question -> the items that are its other wordings, in the order asked."""


def measure(evidence: Evidence) -> Measured:
    readings, seed = evidence.readings, evidence.seed
    base = readings["base"]
    wordings = wordings_of(base)
    if not wordings:
        reason = why_none(base, "paraphrase", "no question with other wordings has an answer to score")
        return not_measured(reason)
    hits = {role: _scores(found, wordings) for role, found in readings.items()}
    means = {role: mean_of([float(np.mean(of)) for of in scores], seed) for role, scores in hits.items()}
    asked = {role: _asked(found, wordings) for role, found in readings.items()}
    unrelated = control_means(readings, "unrelated", score, seed)
    return Measured(
        value=means["unlearned"].value,
        interval=means["unlearned"].interval,
        base=means["base"].value,
        base_interval=means["base"].interval,
        retained=means["retained"].value if "retained" in means else None,
        unit="share of answer tokens, mean over a question's wordings",
        direction="knowledge",
        n=len(wordings),
        control=as_control(unrelated),
        chance=guessed([base.items[items[0]].answer_ids for items in wordings.values()]),
        original_wording=_mean(asked["unlearned"]),
        items=_rows(base, wordings, hits, means, asked),
        details={
            "wordings": sum(len(items) for items in wordings.values()),
            "asked": {role: _mean(scores) for role, scores in asked.items()},
            "answered_wholly_in_some_wording": {role: _wholly(hits[role], asked[role]) for role in readings},
            "refused": refused(base, "paraphrase"),
            "seed": seed,
        },
    )


def wordings_of(readings: Readings) -> Wordings:
    found: dict[int, list[int]] = {}
    for index, item in enumerate(readings.items):
        if item.kind == "paraphrase":
            found.setdefault(item.place, []).append(index)
    return found


def guessed(answers: Sequence[Sequence[int]]) -> float:
    """The most tokens that a model which never knew gets right, as a share, mean over ``answers`` in tokens.

    ``(T - 1 + f) / T`` for an answer of ``T`` tokens, ``f`` the share of answers that begin as the commonest does.
    """
    first = Counter(answer[0] for answer in answers).most_common(1)[0][1] / len(answers)
    return float(np.mean([(len(answer) - 1 + first) / len(answer) for answer in answers]))


def _scores(readings: Readings, wordings: Wordings) -> list[list[float]]:
    """Question by question, the score of each other wording."""
    return [
        [score(readings.answer_logprobs[index], readings.answer_hits[index]) for index in items]
        for items in wordings.values()
    ]


def _asked(readings: Readings, wordings: Wordings) -> list[float | None]:
    """The scores of the same questions as they are always asked; ``None`` where that could not be scored."""
    return [
        None if index is None else score(readings.answer_logprobs[index], readings.answer_hits[index])
        for index in asked_as(readings, wordings)
    ]


def asked_as(readings: Readings, wordings: Wordings) -> list[int | None]:
    """The items of the same questions in the words in which they are always asked."""
    at = {item.id: index for index, item in enumerate(readings.items)}
    return [at.get(f"target/{place}") for place in wordings]


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


def _wholly(hits: Sequence[Sequence[float]], asked: Sequence[float | None]) -> float:
    """The share of questions of which every token is right in at least one wording, the asked one included."""
    return float(np.mean([1.0 in (plain, *others) for plain, others in zip(asked, hits, strict=True)]))


def _rows(
    base: Readings,
    wordings: Wordings,
    hits: Mapping[str, Sequence[Sequence[float]]],
    means: Mapping[str, Mean],
    asked: Mapping[str, Sequence[float | None]],
) -> list[dict[str, Cell]]:
    """One row a question, with the wording under which the unlearned model gives most of the answer."""
    rows: list[dict[str, Cell]] = []
    plain = asked_as(base, wordings)
    for number, items in enumerate(wordings.values()):
        best = base.items[items[int(np.argmax(hits["unlearned"][number]))]]
        index = plain[number]
        row: dict[str, Cell] = {"question": None if index is None else base.items[index].question}
        row |= {"best_wording": best.question, "answer": best.answer, "wordings": len(items)}
        row |= {role: float(mean.scores[number]) for role, mean in means.items()}
        rows.append(row | {f"asked_{role}": scores[number] for role, scores in asked.items()})
    return rows
