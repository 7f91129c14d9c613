"""The metrics: each sibling module is one, and adding a file adds a metric.

Two kinds, told apart by what the module defines:

* a *weights metric* has a class ``Tally(tensor)``, one for each shared tensor, which is fed blocks of rows on any
  thread (``_tally.py``); and a class ``Observer(pair)`` whose ``add(tensor, found)`` takes what the tally found, in the
  order of the tensors, and whose ``measure()`` gives the ``Measurement``;
* a *concept metric* has a function ``measure(subjects, concept)`` and ``NEEDS``, the inputs without which it
  cannot run. The runner turns a missing input into *not measured: reason*, so a metric never sees one.

Both have ``TITLE``. The module's name is the metric's name everywhere: file, command line, JSON key, HTML anchor.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType


@cache
def modules() -> dict[str, ModuleType]:
    """Every metric by name, in alphabetical order."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def weights_metrics() -> dict[str, ModuleType]:
    """The metrics that read weight tensors alone."""
    return {name: module for name, module in modules().items() if hasattr(module, "Observer")}


def concept_metrics() -> dict[str, ModuleType]:
    """The metrics that read what a pair of models does with one concept."""
    return {name: module for name, module in modules().items() if not hasattr(module, "Observer")}
