"""The effect of an edit on the answers that a model writes: BLEU and ROUGE-L against those it wrote before.

For people only: log-probability (``audit.vectors.effects``) changes smoothly with the edit, text changes in jumps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from audit.interventions import Change
from audit.models.generation import greedy
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.vectors.effects import Effect, writing
from audit.vectors.question_split import QuestionExamples
from concepts.prompts import cut
from concepts.similarity import bleu, rouge_l

SCORES: Final[Mapping[str, Callable[[str, str], float | None]]] = {"bleu": bleu, "rouge_l": rouge_l}
UNIT: Final = "fall of the answer's similarity to the one written before the edit, 0 to 1"


def written_effects(
    model: RunningModel,
    target: QuestionExamples,
    unrelated: QuestionExamples,
    changes: Sequence[Change],
    seed: int = 0,
    progress: Progress = SILENT,
) -> list[dict[str, Effect]]:
    """For each change, by score: the fall of the new answers' similarity to the old ones.

    Each question is put in its first wording. The fall is from the score of the old answer with itself, which may be
    below 1 (BLEU of one or two words); it is 0 if the answer did not change. Questions whose old answer has no word are
    skipped.
    """
    prompts = [example.prompt for questions in (target, unrelated) for example in first_wordings(questions)]
    before = answers(model, prompts, {}, progress)
    rows = []
    for change in changes:
        after = answers(model, prompts, change, progress)
        effects = {}
        for name in SCORES:
            lost = similarity_lost(name, before, after)
            about, others = lost[: target.n], lost[target.n :]
            effects[name] = Effect(about[~np.isnan(about)], others[~np.isnan(others)], seed, UNIT)
        rows.append(effects)
    return rows


def first_wordings(questions: QuestionExamples) -> list[Example]:
    """The first example of each question."""
    _, first = np.unique(questions.question, return_index=True)
    return [questions.examples[index] for index in first]


def answers(model: RunningModel, prompts: Sequence[str], change: Change, progress: Progress) -> list[str]:
    """The model's greedy answers with ``change`` applied during generation; the model itself stays unchanged."""
    ids = [tuple(model.tokenizer(prompt)["input_ids"]) for prompt in prompts]
    with writing(model, change):
        written = greedy(model, ids, progress=progress)
    return [cut(model.tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in written]


def similarity_lost(score: str, before: Sequence[str], after: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Score of each old answer with itself, less that with the new one; NaN if the old one has no word."""
    similarity = SCORES[score]
    lost = []
    for old, new in zip(before, after, strict=True):
        own, other = similarity(old, old), similarity(old, new)
        lost.append(np.nan if own is None or other is None else own - other)
    return np.array(lost)
