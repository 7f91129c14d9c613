"""The study of *Effective Skill Unlearning* on SmolLM2: each skill forgotten in turn, by each method.

    python -m benchmarks.skills DATA      # a folder with gsm8k_test.jsonl, HumanEval.jsonl.gz, xquad.*.json

In the paper's form: relative change of the forget skill, of each other skill and of general text. The paper's scores
are accuracies; a model of 135 million parameters has almost none, so a skill's score is the probability per token of
the right answers (its relative change is exp of the mean change in nats, less 1) and accuracy stands beside it where
there is any. Under Key Space Detection a query that is refused scores 0. The questions of XQuAD come with the sentence
that answers them. Each method and skill is kept under ``audit-report/skills/`` and found again there.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import folders, publish

KEPT = Path("audit-report/skills")
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
MISSES = 0.04
"""Of 30 queries to choose a threshold by, no smaller share can be kept."""
SENTENCE = re.compile(r"(?<=[.!?。！？])\s*")


def main() -> None:
    """One row a method and forget skill."""
    (data,) = folders("DATA")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        skills = {name: written(name, data / file, Path(scratch)) for name, file in FILES.items()}
        for method in METHODS:
            for forget in skills:
                print(f"{method} {forget} ...", file=sys.stderr, flush=True)
                rows.append(row(method, forget, [*skills], found(method, forget, skills)))
    publish(
        "skills",
        rows,
        f"relative change in per cent with 95 % intervals; {QUERIES} queries a skill, a third of them reported",
    )


def written(name: str, source: Path, folder: Path) -> Path:
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


def found(method: str, forget: str, skills: dict[str, Path]) -> dict[str, Any]:
    """The document of ``audit skill --json``, kept or made now."""
    from audit.demo import default_cache, model_folder
    from audit.skills import guard_skill

    kept = KEPT / f"{method}-{forget}.json"
    if kept.is_file():
        document: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return document
    start = time.perf_counter()
    others = [path for name, path in skills.items() if name != forget]
    report = guard_skill(model_folder(default_cache()), skills[forget], others, method, misses=MISSES, limit=QUERIES)
    document = report.as_json() | {"seconds": time.perf_counter() - start}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return document


def row(method: str, forget: str, names: list[str], document: dict[str, Any]) -> dict[str, Any]:
    """The paper's row, the forget skill first, then the others in order, then general text."""
    first, *others, text = document["rows"]
    by_name = dict(zip([name for name in names if name != forget], others, strict=True))
    cells: dict[str, Any] = {"method": method, "forget": forget, "forget skill": change(first)}
    cells |= {name: change(by_name[name]) if name in by_name else "–" for name in names}
    cells["text"] = change(text)
    accuracies = [(first.get("exact_before"), first.get("exact_after"))]
    before, after = accuracies[0]
    cells["exact answers"] = "–" if before is None else f"{before:.2f} to {after:.2f}"
    return cells


def change(row: dict[str, Any]) -> str:
    """Relative change in per cent with its interval."""
    if row["inside"] is not None:
        low, high = row["inside_interval"]
        return f"{-100 * row['inside']:z.0f} [{-100 * high:z.0f}, {-100 * low:z.0f}]"
    low, high = row["change_interval"] or (math.nan, math.nan)
    return f"{percent(row['change']):z.0f} [{percent(low):z.0f}, {percent(high):z.0f}]"


def percent(nats: float) -> float:
    return 100 * math.expm1(nats)


if __name__ == "__main__":
    main()
