"""unlearn(): train a copy of a model to forget, by a method of the field, and save it with a record of what was done.

The saved folder is a model like any other, to be audited with ``audit compare MODEL SAVED --concept FORGET``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from audit.attacks.relearning import fact_examples
from audit.checkpoint.saving import refuse_occupied
from audit.errors import AuditError
from audit.models.editable import open_editable
from audit.models.packing import Example
from audit.questions.topics import load_concepts
from audit.request import RunContext
from audit.unlearning.methods import Method, methods
from audit.unlearning.training import MethodSettings, Record
from audit.unlearning.training_examples import FactExample, continuations, training_examples
from concepts.concept import Concept
from concepts.facts import facts_of


@dataclass(frozen=True)
class UnlearnRequest:
    """What is forgotten, how, and where the model is saved.

    Attributes:
        forget: library concept, or a file of questions with answers or of text.
        save: folder for the unlearned model.
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
    """Train a copy of the model in ``path`` to forget, and save it.

    Nothing is saved if training fails. The original is never touched.

    Args:
        context: its settings give seed and device.

    Raises:
        AuditError: an unknown method or option, sets that overlap or are empty, a folder in use, or a model that
            cannot be trained or whose training diverged.
    """
    method = find_method(request.method)
    settings = settings_of(request.method, {**request.options, "seed": context.settings.seed})
    refuse_occupied(request.save, originals=[path])
    (concept,) = (topic.concept for topic in load_concepts([request.forget]))
    forget, retain = examples_of(concept), _retained(concept, request.retain)
    editable = open_editable(path, config, tokenizer, context)
    record = method.unlearn(editable.model, forget, retain, settings, context.progress)
    record = replace(record, settings={**record.settings, "forget": request.forget, "retain": request.retain})
    context.progress.step(f"Saving {request.save.name}")
    editable.save(request.save, {**record.as_json(), "concept": concept.name})
    return record


def examples_of(concept: Concept) -> tuple[Example, ...]:
    """Every question with its answer in every wording, without few-shot examples, and the sentences of the text."""
    facts = [
        FactExample(example.prompt, example.answer, fact)
        for fact in facts_of(concept)
        for example in fact_examples([fact], concept)
    ]
    return (*facts, *continuations(concept.text))


def find_method(name: str) -> Method:
    """The method of this name, written with hyphens or underscores.

    Raises:
        AuditError: there is none; the nearest names are listed.
    """
    known = {_command_name(module): method for module, method in methods().items()}
    wanted = _command_name(name)
    if wanted not in known:
        raise AuditError(f"no method {name!r}.", hint=f"Choose one of {', '.join(_nearest(wanted, known))}.")
    return known[wanted]


def settings_of(method: str, options: Mapping[str, Any]) -> MethodSettings:
    """The settings of ``method`` with ``options`` in place of its defaults.

    Raises:
        AuditError: an option that the method does not have, or a value that is not allowed.
    """
    defaults = find_method(method).SETTINGS
    own = [each.name for each in fields(defaults) if each.init]
    unknown = next((name for name in options if name not in own), None)
    if unknown is not None:
        raise AuditError(f"{method} has no option {unknown!r}.", hint=f"It has {', '.join(_nearest(unknown, own))}.")
    given = {each.name: getattr(defaults, each.name) for each in fields(defaults) if each.init} | dict(options)
    try:
        return TypeAdapter(type(defaults)).validate_python(given)
    except ValidationError as error:
        problem = error.errors()[0]
        raise AuditError(f"option {problem['loc'][0]!r} of {method}: {problem['msg']}.") from error


def _retained(concept: Concept, retain: str | None) -> tuple[Example, ...]:
    if retain is None:
        return training_examples(concept).retain
    (kept,) = (topic.concept for topic in load_concepts([retain]))
    return examples_of(kept)


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names that resemble ``name``; all of them if none does."""
    every = sorted(known)
    return get_close_matches(name, every, n=3) or every


def _command_name(module: str) -> str:
    return module.replace("_", "-")
