"""The study of *Effective Skill Unlearning* on SmolLM2: each skill forgotten in turn, by each method.

    python -m benchmarks.skills DATA      # a folder with gsm8k_test.jsonl, HumanEval.jsonl.gz, xquad.*.json

In the paper's form: relative change of the forget skill, of each other skill and of general text. The paper's scores
are accuracies; a model of 135 million parameters has almost none, so a skill's score is the probability per token of
the right answers (its relative change is exp of the mean change in nats, less 1) and accuracy is given where
there is any; general text also has its perplexity, exp of the mean over stretches of 60 words of the nats per token,
the first three words of each given. Under Key Space Detection a query that is refused scores 0, and text that is not
refused is answered as before. The questions of XQuAD come with the sentence that answers them. The measurements are
those of ``audit skill``; what it would read again for each skill is read once.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.record import folders, publish

if TYPE_CHECKING:
    from audit.guards.activity import Activity
    from audit.guards.methods import Guard
    from audit.guards.splits import TokenizedSkill
    from audit.models.loading import RunningModel
    from audit.result import Measurement

T = TypeVar("T")

FILES = {
    "math": "gsm8k_test.jsonl",
    "code": "HumanEval.jsonl.gz",
    "English": "xquad.en.json",
    "German": "xquad.de.json",
    "Spanish": "xquad.es.json",
    "Chinese": "xquad.zh.json",
}
METHODS = ("key-space", "neuron-adjust", "prune")
QUERIES = 90
SEED = 0
MISSES = 0.04
"""Share of a skill that may be missed; 30 queries to choose a threshold by allow none smaller."""
SENTENCE = re.compile(r"(?<=[.!?。！？])\s*")


def main() -> None:
    """One row for each method and forget skill; the model is loaded once, and read once for what all rows share."""
    from audit.commands.demo import model_folder
    from audit.guards.splits import tokenize_skill
    from audit.models.opening import open_model
    from audit.settings import default_cache
    from concepts.skill import load_skill

    (data,) = folders("DATA")
    with tempfile.TemporaryDirectory() as scratch:
        skills = [load_skill(query_file(name, data / file, Path(scratch))) for name, file in FILES.items()]
    model = open_model(model_folder(default_cache())).load()
    tokenized = [
        tokenize_skill(skill.model_copy(update={"title": name, "queries": skill.queries[:QUERIES]}), model, SEED)
        for name, skill in zip(FILES, skills, strict=True)
    ]
    rows = [row("key-space", [measured]) for measured in by_key_space(model, tokenized)]
    rows += [row(method, measured) for method, measured in by_neurons(model, tokenized)]
    publish(
        "skills",
        rows,
        f"relative change in per cent with 95 % intervals; {QUERIES} queries a skill, a third of them reported; "
        f"perplexity of neutral text",
    )


def query_file(name: str, source: Path, folder: Path) -> Path:
    """``source``, or for XQuAD a file of its questions after the sentences that answer them."""
    if source.suffix != ".json":
        return source
    document = json.loads(source.read_text(encoding="utf-8"))
    lines = []
    for article in document["data"]:
        for paragraph in article["paragraphs"][:2]:
            for entry in paragraph["qas"][:2]:
                answer = entry["answers"][0]
                start = 0
                for sentence in SENTENCE.split(paragraph["context"]):
                    start = paragraph["context"].index(sentence, start)
                    if start <= answer["answer_start"] < start + len(sentence):
                        prompt = f"{sentence}\n\n{entry['question']}"
                        lines.append(json.dumps({"prompt": prompt, "answer": answer["text"]}, ensure_ascii=False))
                    start += len(sentence)
    target = folder / f"{name}.jsonl"
    target.write_text("\n".join(dict.fromkeys(lines)), encoding="utf-8")
    return target


def by_key_space(model: RunningModel, skills: Sequence[TokenizedSkill]) -> Iterator[Measurement]:
    """As ``audit skill --method key-space`` measures each skill against the others."""
    from audit.guards.measurements import held_out_inside
    from audit.guards.regions import SkillKeys, fit_regions, read_keys

    keys = read_keys(model, skills, background=True)
    for at in range(len(skills)):
        log(f"key-space {skills[at].title}")
        reordered = forget_first(skills, at)
        own = SkillKeys(tuple(forget_first(keys.skills, at)), keys.neutral, keys.background)
        yield held_out_inside(reordered, own, fit_regions(reordered, own, "vote", (), MISSES))


def by_neurons(model: RunningModel, skills: Sequence[TokenizedSkill]) -> Iterator[tuple[str, list[Measurement]]]:
    """The same for the methods that change activations."""
    from audit.guards.activity import read_activity
    from audit.guards.effects import held_out_answers, pair_scores, score_answers
    from audit.guards.measurements import guard_effect, guard_perplexity
    from audit.guards.sites import Sites

    activities = [read_activity(model, skill.ids_of("fit")) for skill in skills]
    answers = held_out_answers(model, skills)
    before = score_answers(model, answers, "before")
    for method in METHODS[1:]:
        for at, skill in enumerate(skills):
            log(f"{method} {skill.title}")
            forget, *others = forget_first(activities, at)
            guard = choose(method, forget, pooled(others))
            with guard.apply(model.model, Sites.from_architecture(model.architecture)):
                after = score_answers(model, answers, "after")
            effects = pair_scores(forget_first(answers, at), forget_first(before, at), forget_first(after, at))
            yield method, [guard_effect(effects, SEED), guard_perplexity(effects, SEED)]


def choose(method: str, forget: Activity, retain: Activity) -> Guard:
    """The guard of neurons with its default options."""
    from audit.guards.methods import neuron_adjust, prune

    if method == "prune":
        return prune.choose(forget, retain, prune.PruneOptions())
    return neuron_adjust.choose(forget, retain, neuron_adjust.NeuronAdjustOptions(), SEED)


def forget_first(entries: Sequence[T], at: int) -> list[T]:
    """The entry to forget first, then the others in their order."""
    return [entries[at], *entries[:at], *entries[at + 1 :]]


def pooled(activities: Sequence[Activity]) -> Activity:
    """What all their prompts together do to every neuron."""
    import numpy as np

    from audit.guards.activity import Activity
    from concepts.adjust import Moments

    weights = np.array([activity.tokens for activity in activities], dtype=float)
    weights /= weights.sum()

    def mean(values: Iterable[np.ndarray]) -> np.ndarray:
        return np.tensordot(weights, np.stack([*values]), axes=1)

    def moments(parts: Sequence[Moments]) -> Moments:
        first = mean(part.mean for part in parts)
        return Moments(first, np.sqrt(mean(part.std**2 + part.mean**2 for part in parts) - first**2))

    return Activity(
        pre=moments([activity.pre for activity in activities]),
        keys=moments([activity.keys for activity in activities]),
        key_size=mean(activity.key_size for activity in activities),
        tokens=sum(activity.tokens for activity in activities),
    )


def row(method: str, measured: Sequence[Measurement]) -> dict[str, Any]:
    """The paper's row, the forget skill first, then the others, then general text."""
    table = [item for item in measured[0].items if item.get("region", "vote") == "vote" and item["role"] != "left out"]
    first, *others, text = table
    by_name = {item["skill"]: item for item in others}
    cells: dict[str, Any] = {"method": method, "forget": first["skill"], "forget skill": change(first)}
    cells |= {name: change(by_name[name]) if name in by_name else "–" for name in FILES}
    cells["text"] = change(text)
    perplexity = measured[1] if len(measured) > 1 else None
    cells["perplexity"] = "as before" if perplexity is None else f"{perplexity.base:.1f} to {perplexity.value:.1f}"
    before, after = (first.get(name) for name in ("exact_before", "exact_after"))
    cells["exact answers"] = "–" if before is None else f"{before:.2f} to {after:.2f}"
    return cells


def log(step: str) -> None:
    print(f"{step} ...", file=sys.stderr, flush=True)


def change(row: Mapping[str, Any]) -> str:
    """Relative change in per cent with its interval; of a region, of the queries that it lets through."""
    if "inside" in row:
        value, low, high = (-100 * row[name] for name in ("inside", "high", "low"))
    else:
        value, low, high = (math.nan if row[name] is None else percent(row[name]) for name in ("change", "low", "high"))
    return f"{value:z.0f} [{low:z.0f}, {high:z.0f}]"


def percent(nats: float) -> float:
    return 100 * math.expm1(nats)


if __name__ == "__main__":
    main()
