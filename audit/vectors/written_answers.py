"""What an edit does to the answers that a model writes, scored against those it wrote before (BLEU, ROUGE-L).

Text changes in jumps where log-probability moves smoothly: see ``audit.vectors.effects``. This decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from audit.interventions import Change
from audit.metrics.answers.bleu import bleu
from audit.metrics.answers.rouge_l import rouge_l
from audit.models.generation import greedy
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.progress import SILENT, Progress
from audit.vectors.asking import Asked
from audit.vectors.effects import Effect, writing
from concepts.prompts import cut

SCORES: Final[Mapping[str, Callable[[str, str], float | None]]] = {"bleu": bleu, "rouge_l": rouge_l}
UNIT: Final = "fall of the answer's likeness to the one written before the edit, 0 to 1"


def written_effects(
    model: RunningModel,
    target: Asked,
    unrelated: Asked,
    changes: Sequence[Change],
    seed: int = 0,
    progress: Progress = SILENT,
) -> list[dict[str, Effect]]:
    """For each change, by score: how much less like the old answers the new ones are.

    Each question is asked in its first wording. A text's likeness to itself may be below 1 (BLEU of a word or two), so
    it is the fall from there that counts: 0 where nothing changed. Questions with no answer in words before are left
    out.
    """
    prompts = [example.prompt for asked in (target, unrelated) for example in first_wordings(asked)]
    before = answers(model, prompts, {}, progress)
    found = []
    for change in changes:
        after = answers(model, prompts, change, progress)
        effects = {}
        for name in SCORES:
            lost = likeness_lost(name, before, after)
            about, others = lost[: target.n], lost[target.n :]
            effects[name] = Effect(about[~np.isnan(about)], others[~np.isnan(others)], seed, UNIT)
        found.append(effects)
    return found


def first_wordings(asked: Asked) -> list[Example]:
    """The first example of each question."""
    _, places = np.unique(asked.of, return_index=True)
    return [asked.examples[place] for place in places]


def answers(model: RunningModel, prompts: Sequence[str], change: Change, progress: Progress) -> list[str]:
    """The model's greedy answers as if ``change`` were written into it."""
    ids = [tuple(model.tokenizer(prompt)["input_ids"]) for prompt in prompts]
    with writing(model, change):
        written = greedy(model, ids, progress=progress)
    return [cut(model.tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in written]


def likeness_lost(score: str, before: Sequence[str], after: Sequence[str]) -> np.ndarray:
    """Score of each old answer with itself, less that with the new one ``[n]``; NaN where the old one has no word."""
    likeness = SCORES[score]
    lost = []
    for old, new in zip(before, after, strict=True):
        own, other = likeness(old, old), likeness(old, new)
        lost.append(np.nan if own is None or other is None else own - other)
    return np.array(lost)
