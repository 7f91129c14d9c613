"""unlearn(): train a copy of a model to forget, by a method of the field, and save it with a record of what was done.

The saved folder is a model like any other, to be audited with ``audit compare MODEL SAVED --concept FORGET``. A method
that protects the model from outside instead (``audit.guards``) saves a guard, to be audited with
``audit compare MODEL MODEL --guard SAVED --concept FORGET``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from audit.attacks.relearning import fact_examples
from audit.checkpoint.saving import refuse_occupied, require_room
from audit.commands.skill import check_architecture
from audit.errors import AuditError, ModelError
from audit.guards import methods as guards
from audit.guards.facts import fact_skills
from audit.guards.methods import GuardMethod, own_options
from audit.guards.saving import DOCUMENT, save_guard
from audit.guards.splits import attack_queries, tokenize_skill
from audit.models.editable import EditableModel, open_editable
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.models.scoring import fits, score
from audit.progress import Progress
from audit.questions.topics import load_concepts
from audit.request import RunContext
from audit.units import code_digest, digest_of
from audit.unlearning.methods import Method, methods
from audit.unlearning.resumption import UnfinishedRun, resumable
from audit.unlearning.training import MethodSettings, Record, asked, refuse_overlap
from audit.unlearning.training_examples import FactExample, continuations, training_examples
from concepts.concept import Concept
from concepts.facts import facts_of, subject_in
from concepts.prompts import ASK
from concepts.skill import split

MEASURED: Final = 32
"""Answers of each set that are read before and after."""


@dataclass(frozen=True)
class UnlearnRequest:
    """What is forgotten, how, and where the model is saved.

    Attributes:
        forget: library concept, or a file of questions with answers or of text.
        save: folder for the unlearned model, or the guard.
        retain: the same of what is to be kept; by default general knowledge that does not mention the concept.
        options: values for the method's settings, by name.
    """

    method: str
    forget: str
    save: Path
    retain: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def unlearn(
    path: Path,
    request: UnlearnRequest,
    *,
    config: Path | None = None,
    tokenizer: Path | None = None,
    context: RunContext = RunContext(),
) -> Record:
    """Train a copy of the model in ``path`` to forget, and save it; or fit a guard, and save that.

    Nothing is saved if training fails. The original is never touched. A run that was interrupted goes on where it was,
    if it is started again with the same arguments; until it is finished, its state is in ``SAVE.partial``.

    Args:
        context: its settings give seed and device.

    Raises:
        AuditError: an unknown method or option, sets that overlap or are empty, a folder in use or without room, or a
            model that cannot be trained, whose training diverged, or in which nothing changed.
    """
    if _command_name(request.method) in guard_methods():
        return _guard(path, request, config=config, tokenizer=tokenizer, context=context)
    method = find_method(request.method)
    settings = settings_of(request.method, request.options, context.settings.seed)
    refuse_occupied(request.save, originals=_inputs(path, request))
    concept = _concept(request.forget)
    forget, retain = examples_of(concept), _retained(concept, request.retain)
    refuse_overlap(forget, retain)
    editable = open_editable(path, config, tokenizer, context)
    require_room(request.save, sum(file.bytes for file in editable.opened.checkpoint.file_records()))
    sets = {"forget": forget, "retain": retain}
    examples = {name: [(each.prompt, each.answer, each.subject) for each in own] for name, own in sets.items()}
    given = [_command_name(request.method), settings.as_json(), context.settings.device, examples]
    place = request.save.resolve()
    run = UnfinishedRun(place.with_name(f"{place.name}.partial"), _key(editable, given))
    with _explained(run):
        before = _said(editable.model, sets, context.progress)
        with resumable(run):
            record = method.unlearn(editable.model, forget, retain, settings, context.progress)
        if not editable.round_as_stored():
            raise ModelError(
                f"{request.method} changed no stored weight, so nothing was saved.",
                hint=f"Choose other settings; it has {', '.join(_own_options(method))}.",
            )
        after = _said(editable.model, sets, context.progress)
        chosen = {**record.settings, "forget": request.forget, "retain": request.retain}
        record = replace(record, settings=chosen, said={name: (before[name], after[name]) for name in before})
        context.progress.step(f"Saving {request.save.name}")
        editable.save(request.save, {**record.as_json(), "concept": concept.name})
    run.remove()
    return record


def guard_methods() -> dict[str, GuardMethod]:
    """The guards by name, except where a method that changes weights has the same name."""
    changing = {_command_name(module) for module in methods()}
    return {name: method for name, method in guards.methods().items() if name not in changing}


def _guard(
    path: Path, request: UnlearnRequest, *, config: Path | None, tokenizer: Path | None, context: RunContext
) -> Record:
    """Fit a guard to some facts of the model in ``path``, and save it with queries to attack it with."""
    name, seed = _command_name(request.method), context.settings.seed
    options = own_options(name, request.options)
    refuse_occupied(request.save, DOCUMENT, originals=_inputs(path, request))
    concept = _concept(request.forget)
    skills = fact_skills(concept, None if request.retain is None else _concept(request.retain))
    options.check_skill(skills[0], split(skills[0], seed))
    model = open_editable(path, config, tokenizer, context, partial(check_architecture, options)).model
    tokenized = [tokenize_skill(skill, model, seed, ASK) for skill in skills]
    fitted = guard_methods()[name].fit(model, tokenized, options, seed, context.progress)
    context.progress.step(f"Saving {request.save.name}")
    save_guard(fitted.guard, request.save, model, concept.title, attack_queries(tokenized))
    return Record(
        method=name,
        settings={**asdict(options), "seed": seed, "forget": request.forget, "retain": request.retain},
        examples={role: len(skill.prompts) for role, skill in zip(("forget", "retain"), tokenized, strict=True)},
        trajectory=fitted.trajectory,
        changed={"weights": "none"},
    )


def _inputs(path: Path, request: UnlearnRequest) -> list[Path]:
    """The model, and the other files and folders that are read."""
    named = [request.forget, request.retain, *request.options.values()]
    return [path, *(Path(each) for each in named if isinstance(each, str) and Path(each).exists())]


def _key(editable: EditableModel, given: Sequence[Any]) -> str:
    """The beginning of a digest of all that the weights of a run depend on."""
    opened = editable.opened
    files = [file.sha256 for file in opened.checkpoint.file_records()]
    vocabulary = sorted(editable.model.tokenizer.get_vocab().items())
    return digest_of([files, opened.config, vocabulary, code_digest(), *given])[:16]


@contextmanager
def _explained(run: UnfinishedRun) -> Iterator[None]:
    """Say what an interruption leaves; an error of the user leaves nothing."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"What was trained is in {run.folder}, and the same command goes on from there."
        raise KeyboardInterrupt(kept if run.is_kept else "Nothing was saved.") from None
    except ModelError:
        run.discard()
        raise


def _said(model: RunningModel, sets: Mapping[str, Sequence[Example]], progress: Progress) -> dict[str, float]:
    """The mean log-probability of a token of the answers of each set, in nats, over at most ``MEASURED`` of them.

    Raises:
        ModelError: it is not finite.
    """
    found = {}
    for name, examples in sets.items():
        chosen = [each for each in examples[:: -(-len(examples) // MEASURED) or 1] if fits(each, model)]
        if chosen and not model.alibi:
            progress.step(f"Reading the answers to {name}")
            found[name] = float(score(model, chosen).means.mean())
            if not math.isfinite(found[name]):
                raise ModelError(f"the log-probability of the answers to {name} is {found[name]}: the model is broken.")
    return found


def examples_of(concept: Concept) -> tuple[Example, ...]:
    """Every question with its answer in every wording, without few-shot examples, and the sentences of the text."""
    facts = [
        FactExample(example.prompt, example.answer, example.subject, fact=fact)
        for fact in facts_of(concept)
        for example in fact_examples([fact], concept)
    ]
    names = (concept.title, *concept.seeds)
    sentences = [replace(each, subject=subject_in(each.prompt, names=names)) for each in continuations(concept.text)]
    return (*facts, *sentences)


def find_method(name: str) -> Method:
    """The method of this name, written with hyphens or underscores.

    Raises:
        AuditError: there is none; the nearest names are listed.
    """
    known = {_command_name(module): method for module, method in methods().items()}
    wanted = _command_name(name)
    if wanted not in known:
        nearest = _nearest(wanted, [*known, *guard_methods()])
        raise AuditError(f"no method {name!r}.", hint=f"Choose one of {', '.join(nearest)}.")
    return known[wanted]


def settings_of(method: str, options: Mapping[str, Any], seed: int = 0) -> MethodSettings:
    """The settings of ``method``: its defaults, with ``options`` in their place, and the seed, which is no option.

    Raises:
        AuditError: an option that the method does not have, or one that it needs and that is not given (its default is
            ``None``), or a value that is not allowed.
    """
    defaults = find_method(method).SETTINGS
    own = _own_options(find_method(method))
    unknown = next((name for name in options if name not in own), None)
    if unknown is not None:
        raise AuditError(f"{method} has no option {unknown!r}.", hint=f"It has {', '.join(_nearest(unknown, own))}.")
    given = {name: getattr(defaults, name) for name in own} | dict(options)
    missing = next((name for name, value in given.items() if value is None), None)
    if missing is not None:
        raise AuditError(f"{method} needs the option {missing!r}.", hint=f"Give it with --option {missing}=VALUE.")
    try:
        return TypeAdapter(type(defaults)).validate_python({**given, "seed": seed})
    except ValidationError as error:
        problem = error.errors()[0]
        raise AuditError(f"option {problem['loc'][0]!r} of {method}: {problem['msg']}.") from error


def _own_options(method: Method) -> list[str]:
    return [each.name for each in fields(method.SETTINGS) if each.init and each.name != "seed"]


def _retained(concept: Concept, retain: str | None) -> tuple[Example, ...]:
    """The examples to retain; of general knowledge those that are not to be forgotten."""
    if retain is None:
        forgotten = {asked(example) for example in examples_of(concept)}
        return tuple(each for each in training_examples(concept).retain if asked(each) not in forgotten)
    return examples_of(_concept(retain))


def _concept(name: str) -> Concept:
    (topic,) = load_concepts([name])
    return topic.concept


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names that resemble ``name``; all of them if none does."""
    every = sorted(known)
    return get_close_matches(name, every, n=3) or every


def _command_name(module: str) -> str:
    return module.replace("_", "-")
