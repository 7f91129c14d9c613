"""The guards: each file of this folder is one, and adding a file adds a method of ``audit skill``.

A file defines

- ``TITLE``, a few words for people;
- ``OPTIONS``, a frozen dataclass that extends ``GuardOptions``: its part of the command's options, with defaults;
- ``GUARD``, a class that extends ``Guard``: how a fitted guard is applied, saved and loaded, whether it refuses queries
  before they are answered, how answers are scored with it on, and (``WritableGuard``) how it is written into the
  weights for good;
- ``fit``, which fits one and measures it on the queries held out.

``methods()`` checks all of this when the folder is first read. The command line's name of a method is its file's name
with hyphens; no command and no other guard names one. Files that begin with an underscore are shared by their siblings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from inspect import isabstract
from typing import Any, Protocol, Self

import numpy as np
from jaxtyping import Bool
from pydantic import TypeAdapter, ValidationError
from torch import nn

from audit.errors import AuditError
from audit.guards.sites import Sites
from audit.guards.splits import TokenizedSkill
from audit.models.loading import RunningModel
from audit.models.packing import Example
from audit.models.scoring import AnswerScores, score
from audit.plugins import PluginError, discover
from audit.progress import Progress
from audit.result import Measurement
from concepts.skill import Skill, Splits

OptionValue = bool | int | float | str | Sequence[int]


@dataclass(frozen=True)
class GuardOptions:
    """Options of every method; a method adds its own, each with a default.

    A value that no model could satisfy is an AuditError when the options are made.

    Attributes:
        layers: layers that the guard may read or change. If empty, the method chooses among all.
    """

    layers: tuple[int, ...] = ()

    def check_skill(self, skill: Skill, splits: Splits) -> None:
        """Stop before the model is loaded where ``skill`` has too few queries to be guarded with these options.

        Raises:
            AuditError: says how many are needed.
        """


@dataclass(frozen=True)
class GuardState:
    """What a guard is saved as.

    Attributes:
        settings: JSON values, for ``guard.json``.
        arrays: statistics, for ``guard.safetensors``.
    """

    settings: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


class Guard(ABC):
    """A fitted guard: a frozen record that can be applied to a model and saved."""

    @abstractmethod
    def apply(self, model: nn.Module, sites: Sites) -> ExitStack:
        """Put the guard's hooks on ``model``. Closing the stack, or leaving its ``with`` block, removes them."""

    @abstractmethod
    def matches(self, sites: Sites) -> bool:
        """Whether its statistics have the layers, neurons and shapes of a model with these ``sites``."""

    @abstractmethod
    def save(self) -> GuardState:
        """Everything the guard is."""

    @classmethod
    @abstractmethod
    def load(cls, state: GuardState) -> Self:
        """The guard that was saved.

        Raises:
            KeyError, TypeError, ValueError, IndexError: ``state`` is not what ``save`` gives.
        """

    def refused(self, model: RunningModel, prompts: Sequence[str]) -> Bool[np.ndarray, " n"] | None:
        """Which prompts it refuses before they are answered.

        ``None`` for a guard that refuses none and changes what the model answers; whether such a guard stops a query
        is read from the answer's probability (``audit.guards.attack``).
        """
        return None

    def score(self, model: RunningModel, examples: Sequence[Example]) -> AnswerScores:
        """Scores of answers by ``model`` as it is now, read in a way that is right with the guard on."""
        return score(model, examples)


class WritableGuard(Guard):
    """A guard that can also be written into the weights for good."""

    @abstractmethod
    def write(self, model: RunningModel) -> dict[str, list[list[int]]]:
        """Edit ``model`` in place so that it answers as it does under the guard.

        Returns what was edited, for ``unlearning.json``: ``{"value_vectors": [[layer, neuron], ...]}``.
        """


@dataclass(frozen=True)
class FittedGuard:
    """A guard, and what it does to the queries that it was not fitted on.

    Attributes:
        trajectory: one row for each step of the fit, if it was made in steps.
    """

    guard: Guard
    measurements: tuple[Measurement, ...]
    trajectory: tuple[Mapping[str, float], ...] = ()


class GuardMethod(Protocol):
    """A file of this folder."""

    TITLE: str
    OPTIONS: type[GuardOptions]
    GUARD: type[Guard]

    def fit(
        self,
        model: RunningModel,
        skills: Sequence[TokenizedSkill],
        options: GuardOptions,
        seed: int,
        progress: Progress,
        /,
    ) -> FittedGuard:
        """Fit a guard of ``skills[0]`` that leaves the other skills alone, and measure it.

        Args:
            options: an instance of the file's ``OPTIONS``.

        Raises:
            AuditError: too few queries, or a model that the method cannot guard or be measured on.
        """


@cache
def methods() -> dict[str, GuardMethod]:
    """Every method by its name on the command line, in alphabetical order.

    Raises:
        PluginError: a file of this folder breaks the contract.
    """
    modules = discover(__name__, GuardMethod)
    for name, module in modules.items():
        if not (is_dataclass(module.OPTIONS) and issubclass(module.OPTIONS, GuardOptions)):
            raise PluginError(f"{__name__}.{name}.OPTIONS must be a dataclass that extends GuardOptions.")
        if not issubclass(module.GUARD, Guard) or isabstract(module.GUARD):
            raise PluginError(f"{__name__}.{name}.GUARD must extend Guard and define its abstract methods.")
    return {_command_name(name): module for name, module in modules.items()}


def find_method(name: str) -> GuardMethod:
    """Raises AuditError where there is none of this name."""
    if name not in methods():
        raise AuditError(f"no method {name!r}.", hint=f"Choose one of {', '.join(methods())}.")
    return methods()[name]


def method_of(guard: Guard) -> str:
    """The name of the method that made ``guard``."""
    return _command_name(type(guard).__module__.rpartition(".")[2])


def is_writable(method: str) -> bool:
    """Whether guards of this method can be written into the weights."""
    return issubclass(find_method(method).GUARD, WritableGuard)


def options_for(method: str, given: Mapping[str, OptionValue]) -> GuardOptions:
    """The options of ``method``: the ``given`` values that are its own, and its defaults.

    Options of other methods are checked and then ignored, so that one command line serves all methods.

    Raises:
        AuditError: an unknown method, an option that no method has, or a value that is not allowed.
    """
    find_method(method)
    names = {name: {field.name for field in fields(module.OPTIONS)} for name, module in methods().items()}
    unknown = sorted(set(given).difference(*names.values()))
    if unknown:
        raise AuditError(f"no option {unknown[0]!r}.", hint=f"{method} has {', '.join(sorted(names[method]))}.")
    options = {
        name: _validated(name, module.OPTIONS, {option: given[option] for option in given if option in names[name]})
        for name, module in methods().items()
    }
    return options[method]


def own_options(method: str, given: Mapping[str, OptionValue]) -> GuardOptions:
    """The options of ``method`` with the ``given`` values, which must all be its own; layers may be text (``"1,2"``).

    Raises:
        AuditError: an unknown method, an option that it does not have, or a value that is not allowed.
    """
    own = sorted(each.name for each in fields(find_method(method).OPTIONS))
    unknown = next((name for name in given if name not in own), None)
    if unknown is not None:
        raise AuditError(f"{method} has no option {unknown!r}.", hint=f"It has {', '.join(own)}.")
    values = dict(given)
    if isinstance(layers := values.get("layers"), str):
        values["layers"] = layers.split(",")  # type: ignore[assignment]
    return _validated(method, methods()[method].OPTIONS, values)


def _validated(method: str, options: type[GuardOptions], values: Mapping[str, OptionValue]) -> GuardOptions:
    try:
        return TypeAdapter(options).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise AuditError(f"option {problem['loc'][0]!r} of {method}: {problem['msg']}.") from error


def _command_name(module: str) -> str:
    return module.replace("_", "-")
