"""The study of *Effective Skill Unlearning* on SmolLM2: each skill forgotten in turn, by each method.

    python -m benchmarks.skills DATA      # a folder with gsm8k_test.jsonl, HumanEval.jsonl.gz, xquad.*.json

In the paper's form: relative change of the forget skill, of each other skill and of general text. The paper's scores
are accuracies; a model of 135 million parameters has almost none, so a skill's score is the probability per token of
the right answers (its relative change is exp of the mean change in nats, less 1) and accuracy stands beside it where
there is any; general text also has its perplexity, exp of the mean over stretches of 60 words of the nats per token,
the first three words of each given. Under Key Space Detection a query that is refused scores 0, and text that is not
refused is read as before. The questions of XQuAD come with the sentence
that answers them. Each method and skill is kept under ``audit-report/skills/`` and found again there.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record import folders, publish

if TYPE_CHECKING:
    from audit.result import AuditResult

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


def found(method: str, forget: str, skills: dict[str, Path]) -> AuditResult:
    """The result of ``audit skill``, kept or made now."""
    from audit.demo import default_cache, model_folder
    from audit.result import AuditResult
    from audit.settings import Settings
    from audit.skills import Options, guard_skill

    kept = KEPT / f"{method}-{forget}.json"
    if not kept.is_file():
        others = [path for name, path in skills.items() if name != forget]
        fit, settings = Options(misses=MISSES), Settings(limit=QUERIES)
        folder = model_folder(default_cache())
        guard_skill(folder, skills[forget], others, method, options=fit, settings=settings).write(kept)
    return AuditResult.read(kept)


def row(method: str, forget: str, names: list[str], result: AuditResult) -> dict[str, Any]:
    """The paper's row, the forget skill first, then the others in order, then general text."""
    measured = {found.metric: found for found in result.findings[0].measurements}
    table = (measured.get("guard_effect") or measured["held_out_inside"]).items
    first, *others, text = [row for row in table if row.get("region") in (None, "vote") and row["role"] != "left out"]
    by_name = dict(zip([name for name in names if name != forget], others, strict=True))
    cells: dict[str, Any] = {"method": method, "forget": forget, "forget skill": change(first)}
    cells |= {name: change(by_name[name]) if name in by_name else "–" for name in names}
    cells["text"] = change(text)
    perplexity = measured.get("guard_perplexity")
    cells["perplexity"] = "–" if perplexity is None else f"{perplexity.base:.1f} to {perplexity.value:.1f}"
    before, after = (first.get(name) for name in ("exact_before", "exact_after"))
    cells["exact answers"] = "–" if before is None else f"{before:.2f} to {after:.2f}"
    return cells


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
