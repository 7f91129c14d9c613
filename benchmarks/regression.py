"""Record the results of a fixed set of audits, and compare two recordings: a refactoring must not change any.

    python -m benchmarks.regression record DIR          tiny models of every family: seconds each
    python -m benchmarks.regression record DIR --real   also SmolLM2-135M: the demo, find, ablate, skill, guard
    python -m benchmarks.regression compare DIR OTHER

Every audit runs through the command line, whose names do not depend on modules. Models are created once, in
``DIR/models`` of the first recording; a second one reuses them with ``--models``, because results contain their paths.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TIMES = ("started", "finished", "seconds", "packages", "command")
"""Fields of ``run`` that differ between equal runs, or depend on the machine."""
SHOWN = 40
"""Maximum number of differences printed for each document."""


def record(folder: Path, models: Path, real: bool) -> None:
    """Run every audit; store its output, exit code and result as JSON in ``folder``."""
    from tests.tiny import FAMILIES, edit, write_tiny

    def nudged(name: str, tensor: Any) -> Any:
        return tensor * 1.01 if ".1." in name and tensor.dim() == 2 else tensor

    def nudged_more(name: str, tensor: Any) -> Any:
        return tensor * 0.97 if tensor.dim() == 2 else tensor

    for family in FAMILIES:
        place = models / family
        if not place.exists():
            write_tiny(place / "base", family, max_position_embeddings=512) if family not in SHORT else write_tiny(
                place / "base", family
            )
            edit(place / "base", place / "unlearned", nudged)
            edit(place / "base", place / "retained", nudged_more)
    skills = write_skills(models / "skills")
    for name, command in [*tiny_audits(models, FAMILIES, skills), *(real_audits(models) if real else ())]:
        run(folder, name, command, models)


SHORT = ("gpt2", "gptj", "bloom", "falcon")
"""Families whose tiny config has another name for the context length."""


def write_skills(folder: Path) -> Path:
    """Three skills of twelve queries."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "capitals": "Question: What is the capital of Italy, {}?",
        "dogs": "A puppy is a young dog of {} days.",
        "months": "February has twenty-eight days, {} of them.",
    }
    for name, text in texts.items():
        lines = [json.dumps({"prompt": text.format(number), "answer": "Rome"}) for number in range(12)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def tiny_audits(models: Path, families: tuple[str, ...], skills: Path) -> Iterator[tuple[str, str]]:
    """Name and command line of each audit of tiny models; ``OUT`` is its output folder."""
    for family in families:
        pair = f"{models}/{family}/base {models}/{family}/unlearned"
        yield f"compare-{family}", f"compare {pair} --concept italy --limit 4 --output OUT"
    place = models / "llama"
    pair = f"{place}/base {place}/unlearned"
    own = " ".join(f"--skill {skills}/{name}.jsonl" for name in ("capitals", "dogs", "months"))
    yield "weights-only", f"compare {pair} --output OUT"
    yield "retained", f"compare {pair} --retained {place}/retained --concept italy --concept dogs --output OUT"
    yield "skills", f"compare {pair} {own} --output OUT"
    yield "both", f"compare {pair} --retained {place}/retained --concept italy {own} --limit 6 --output OUT"
    yield "identical", f"compare {place}/base {place}/base --concept italy --limit 4 --output OUT"
    yield "plan", f"compare {pair} --concept italy --skill {skills}/dogs.jsonl --plan"
    yield "find", f"find {place}/base --concept italy"
    yield "check", f"check {place}/base {place}/unlearned --concept italy"
    for method in ("key-space", "neuron-adjust", "prune"):
        given = f"--forget {skills}/capitals.jsonl --retain {skills}/dogs.jsonl --retain {skills}/months.jsonl"
        yield (
            f"skill-{method}",
            f"skill {place}/base {given} --method {method} --misses 0.3 --save GUARDS/{method} --output OUT",
        )
        yield f"guard-{method}", f"compare {place}/base {place}/base --guard GUARDS/{method} --output OUT"
        yield f"guard-round-{method}", f"compare {pair} --guard GUARDS/{method} --concept italy --limit 3 --output OUT"
    yield "verify", "verify RESULTS/retained/result.json"
    yield "verify-guard", "verify RESULTS/skill-key-space/result.json"
    yield "unknown-concept", f"compare {pair} --concept itly --output OUT"
    yield "unknown-method", f"ablate {place}/base --concept italy --method erase --output OUT"
    yield "unknown-answers", f"ablate {place}/base --concept italy --output OUT"


def real_audits(models: Path) -> Iterator[tuple[str, str]]:
    """Name and command line of each audit of the real model."""
    cache = models / "cache" / "unlearning-audit"
    base = cache / "SmolLM2-135M-Instruct"
    yield "demo", "demo --output OUT"
    yield "real-find", f"find {base} --concept italy --validate --activations --generate"
    yield "real-find-word", f"find {base} --concept baseball --limit 5 --fold-norm"
    yield "real-ablate", f"ablate {base} --concept italy --method noise --vectors 29.555,22.610 --output OUT"
    yield "real-ablate-project", f"ablate {base} --concept dogs --method project --strength 0.5 --output OUT"
    pair = f"{base} {cache}/italy-npo --retained {cache}/italy-needle"
    yield "real-compare", f"compare {pair} --concept italy --concept france --limit 6 --output OUT"


def run(folder: Path, name: str, command: str, models: Path) -> None:
    """Run one audit and store its output, exit code and result."""
    out = models / "results" / name  # the same in every recording, since results name it
    filled = command.replace("OUT", str(out)).replace("GUARDS", str(models / "guards"))
    filled = filled.replace("RESULTS", str(models / "results"))
    start = time.perf_counter()
    environment = {"XDG_CACHE_HOME": str(models / "cache"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import os

    done = subprocess.run(
        [sys.executable, "-m", "cli", *shlex.split(filled), "--json", "--quiet"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    document = {"command": command, "exit": done.returncode, "printed": parsed(done.stdout), "errors": done.stderr}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"{name:24} exit {done.returncode}, {time.perf_counter() - start:6.1f} s", flush=True)


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def compare(one: Path, other: Path) -> int:
    """Print the differences; returns the number of documents that differ."""
    differing = 0
    for path in sorted(one.glob("*.json")):
        if not (other / path.name).is_file():
            print(f"{path.stem}: not recorded in {other}")
            differing += 1
            continue
        before, after = (json.loads((folder / path.name).read_text()) for folder in (one, other))
        changed = list(differences(before, after, ""))
        if changed:
            differing += 1
            print(f"{path.stem}: {len(changed)} differences")
            print("\n".join(f"   {line}" for line in changed[:SHOWN]))
    print(f"{differing} of {len(list(one.glob('*.json')))} documents differ")
    return differing


def differences(one: Any, other: Any, place: str) -> Iterator[str]:
    """Every field in which two documents differ; lists of measurements are matched by metric."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            if key in TIMES and place.endswith("run"):
                continue
            yield from differences(one.get(key, "(absent)"), other.get(key, "(absent)"), f"{place}.{key}")
    elif isinstance(one, list) and isinstance(other, list):
        if all(isinstance(entry, dict) and "metric" in entry for entry in (*one, *other)):
            named = [
                {f"{entry['metric']}/{entry.get('concept')}/{entry.get('condition')}": entry for entry in entries}
                for entries in (one, other)
            ]
            yield from differences(named[0], named[1], place)
            return
        for number in range(max(len(one), len(other))):
            pair = [entries[number] if number < len(entries) else "(absent)" for entries in (one, other)]
            yield from differences(pair[0], pair[1], f"{place}[{number}]")
    elif one != other:
        yield f"{place}: {str(one)[:120]} -> {str(other)[:120]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="action", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--models", type=Path, help="models of an earlier recording; default FOLDER/models")
    recording.add_argument("--real", action="store_true")
    comparing = commands.add_parser("compare")
    comparing.add_argument("folder", type=Path)
    comparing.add_argument("other", type=Path)
    given = parser.parse_args()
    if given.action == "record":
        record(given.folder.resolve(), (given.models or given.folder / "models").resolve(), given.real)
    else:
        sys.exit(compare(given.folder, given.other) > 0)


if __name__ == "__main__":
    main()
