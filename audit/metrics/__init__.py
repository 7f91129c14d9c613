"""The metrics, in one folder per level of evidence; each file is a metric, and adding a file adds one.

``weights/`` reads weight tensors alone (``WeightsMetric``); every other level reads the evidence about a topic
(``Metric``). The file's name is the metric's name everywhere: command line, JSON key, HTML anchor. The runner here adds
name and title to what a metric returns, and turns a missing input into *not measured: reason*.
"""

from __future__ import annotations

import pkgutil
from functools import cache

from audit.attacks import attacks
from audit.metrics.contract import Evidence, Metric
from audit.metrics.weights import weights_metrics
from audit.plugins import PluginError, discover
from audit.questions.kinds import kinds
from audit.result import Measurement, Source, not_measured

__all__ = ["inputs", "measure", "topic_metrics", "weights_metrics"]


@cache
def topic_metrics() -> dict[str, Metric]:
    """The metrics of one topic, of all levels except ``weights``, in alphabetical order.

    Raises:
        PluginError: a file needs an input that does not exist.
    """
    metrics = {name: metric for folder in _folders().values() for name, metric in folder.items()}
    known = inputs()
    for name, metric in metrics.items():
        unknown = metric.NEEDS - known
        if unknown:
            raise PluginError(f"metric {name} needs {min(unknown)!r}; inputs are {', '.join(sorted(known))}.")
    return dict(sorted(metrics.items()))


@cache
def _folders() -> dict[str, dict[str, Metric]]:
    """The metrics of each level."""
    levels = [info.name for info in pkgutil.iter_modules(__path__) if info.ispkg and info.name != "weights"]
    return {level: discover(f"{__name__}.{level}", Metric) for level in levels}


def source_of(name: str) -> Source:
    """What a metric is read from: its inputs tell, and whether it lies in the folder ``answers``."""
    needs = topic_metrics()[name].NEEDS
    if needs & {attack.INPUT for attack in attacks().values()}:
        return "attacks"
    if "model" not in needs:
        return "weights"
    return "answers" if name in _folders()["answers"] else "internals"


@cache
def inputs() -> frozenset[str]:
    """The inputs that ``NEEDS`` may name: those of the models, of each kind of question and of each attack."""
    from_plugins = {kind.INPUT for kind in kinds().values()} | {attack.INPUT for attack in attacks().values()}
    return frozenset({"tokenizer", "model", "vectors", "patching"} | from_plugins)


def measure(name: str, evidence: Evidence) -> Measurement:
    """One metric under the evidence's condition; *not measured*, with the reasons, where its inputs are missing."""
    metric = topic_metrics()[name]
    missing = dict.fromkeys(evidence.missing[need] for need in sorted(metric.NEEDS) if need in evidence.missing)
    measured = not_measured("; ".join(missing)) if missing else metric.measure(evidence)
    title = metric.TITLE.replace("{topic}", evidence.topic.noun)
    return measured.named(name, title, source_of(name), str(evidence.condition))
