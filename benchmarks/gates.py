"""Guards of GSM8K attacked with human translations and with the attacks that rules write.

    python -m benchmarks.gates DATA MGSM      # DATA as for benchmarks.skills; MGSM a folder with mgsm_en.tsv and others

MGSM (https://github.com/google-research/url-nlp, CC-BY-SA-4.0, not shipped) has 250 problems of GSM8K's test part in
ten further languages. A guard stops and a query leaks as ``audit.guards.attack`` says.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record import folders, publish
from benchmarks.skills import FILES, MISSES, QUERIES, query_file

if TYPE_CHECKING:
    import numpy as np

    from audit.models.loading import RunningModel

LANGUAGES = ("de", "es", "fr", "ru", "zh")
METHODS = ("key-space", "neuron-adjust", "prune")


def main() -> None:
    """A row for each method and attack."""
    from audit.commands.demo import model_folder
    from audit.commands.skill import GuardRequest, guard_skill
    from audit.models.opening import open_model
    from audit.request import RunContext
    from audit.settings import Settings, default_cache

    data, mgsm = folders("DATA", "MGSM")
    folder = model_folder(default_cache())
    model = open_model(folder).load()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        skills = {name: query_file(name, data / file, Path(scratch)) for name, file in FILES.items()}
        math = translated(skills.pop("math"), mgsm, Path(scratch) / "math.jsonl")
        for method in METHODS:
            guard = Path(scratch) / method
            request = GuardRequest(math, [*skills.values()], method, {"misses": MISSES}, save=guard)
            guard_skill(folder, request, context=RunContext(Settings(limit=QUERIES)))
            rows += [{"method": method, **row} for row in attacked_rows(model, guard)]
    publish("gates", rows, "share of held-out GSM8K queries with 95 % intervals; translations from MGSM")


def translated(source: Path, mgsm: Path, target: Path) -> Path:
    """The problems of GSM8K that MGSM translates, with their translations."""
    columns = {language: questions(mgsm / f"mgsm_{language}.tsv") for language in ("en", *LANGUAGES)}
    at = {question: index for index, question in enumerate(columns["en"])}
    entries = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    lines = [
        {
            "prompt": entry["question"],
            "answer": entry["answer"],
            "checker": "number",
            "translations": {language: columns[language][at[entry["question"]]] for language in LANGUAGES},
        }
        for entry in entries
        if entry["question"] in at
    ]
    target.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    return target


def questions(path: Path) -> list[str]:
    return [line.rpartition("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]


def attacked_rows(model: RunningModel, folder: Path) -> Iterator[dict[str, Any]]:
    """Each rule of ``concepts.rewrites`` and each language, against the guard in ``folder``."""
    import numpy as np

    from audit.guards import read_guard
    from audit.guards.attack import AttackedQueries, put_queries
    from concepts.rewrites import REWRITES

    saved = read_guard(folder)
    queries = [query for query in saved.held_out if query.forget]

    def put(prompts: list[str]) -> AttackedQueries:
        return put_queries(model, saved.guard, queries, prompts)

    prompts_by_attack: Mapping[str, list[str]] = {
        name: [attack(query.prompt, np.random.default_rng((0, at))) for at, query in enumerate(queries)]
        for name, attack in REWRITES.items()
    } | {language: [query.translations[language] for query in queries] for language in LANGUAGES}
    plain = put(prompts_by_attack["plain"])
    for name, prompts in prompts_by_attack.items():
        answered = put(prompts)
        yield {
            "asked": name,
            "n": len(queries),
            "stopped": share(answered.stopped),
            "leaks": share(answered.leaks(plain)),
            "answer, guard off": round(float(np.nanmean(answered.off)), 2),
        }


def share(marked: np.ndarray) -> str:
    """The share of marked queries in per cent, with its interval; those marked NaN are excluded."""
    from audit.guards.shares import Share

    known = Share.of(marked)
    if known.value is None or known.interval is None:
        return "not measured"
    return f"{100 * known.value:.0f} [{100 * known.interval[0]:.0f}, {100 * known.interval[1]:.0f}]"


if __name__ == "__main__":
    main()
