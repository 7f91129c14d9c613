"""What a metric of the weights is: a file of ``audit/metrics/weights/`` with these four names.

The pass makes one ``Tally`` for each tensor that both models have, on any thread, and feeds it block by block. The
tally's result goes to the metric's one ``Observer``, tensor after tensor, on one thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from inspect import isabstract
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from audit.architectures import Architecture
from audit.plugins import PluginError
from audit.result import Column, ColumnValue, Measured
from audit.result.weights import OWN_FIELDS
from audit.weights.blocks import Block, SharedTensor
from audit.weights.neuron_table import NeuronTable

Result = TypeVar("Result")
"""What a tally computes for one tensor: the metric's own type."""

Columns = Mapping[str, ColumnValue]
"""Values of a metric's columns in one row, by name; a column without a value may be left out."""


class Tally(ABC, Generic[Result]):
    """Running sums of one metric over one tensor."""

    def __init__(self, tensor: SharedTensor) -> None:
        self.tensor = tensor

    @abstractmethod
    def add(self, block: Block) -> None:
        """Add the next rows, base and unlearned; called for every block, from the first to the last."""

    def needs_another_pass(self) -> bool:
        """Called at the end of each pass: whether to go through the differences (again)."""
        return False

    def add_delta(self, delta: Tensor) -> None:
        """In a further pass, add the next rows that changed: ``unlearned - base``, float32."""
        raise NotImplementedError

    @abstractmethod
    def result(self) -> Result:
        """The tensor's result, once no pass is needed any more."""


class Observer(ABC, Generic[Result]):
    """Collects the results of one metric over all tensors."""

    @abstractmethod
    def __init__(self, architecture: Architecture | None) -> None:
        """Start with nothing; ``architecture`` is ``None`` for state dicts of no known family."""

    @abstractmethod
    def add(self, tensor: SharedTensor, result: Result) -> Columns:
        """Take one tensor's result, and return the metric's columns of its row in the tensor table."""

    def layer(self, layer: int) -> Columns:
        """The metric's columns of one row of the layer table, once every tensor has been added."""
        return {}

    @abstractmethod
    def measure(self) -> Measured:
        """The metric's number over the whole model, once every tensor has been added."""

    def neuron_table(self) -> NeuronTable | None:
        """The change of every FFN neuron, from the metric that keeps it."""
        return None


class WeightsMetric(Protocol):
    """A file of ``audit/metrics/weights/``.

    Attributes:
        TITLE: a few words for people.
        COLUMNS: what the metric adds to the tensor table and the layer table; may be empty.
        Tally, Observer: its subclasses of the two classes above. ``Any`` is the result of its own tally.
    """

    TITLE: str
    COLUMNS: tuple[Column, ...]
    Tally: type[Tally[Any]]
    Observer: type[Observer[Any]]


def check_contract(metrics: Mapping[str, WeightsMetric]) -> None:
    """Refuse a metric whose classes are not those of the contract, or whose columns clash with another's.

    Raises:
        PluginError: names the file and what it should define.
    """
    owners = dict.fromkeys(OWN_FIELDS, "every row")
    for name, metric in metrics.items():
        for given, base in ((metric.Tally, Tally), (metric.Observer, Observer)):
            if not (isinstance(given, type) and issubclass(given, base)) or isabstract(given):
                raise PluginError(
                    f"audit.metrics.weights.{name}.{base.__name__} must extend audit.weights.contract.{base.__name__} "
                    "and define its abstract methods."
                )
        for column in metric.COLUMNS:
            if column.name in owners:
                raise PluginError(
                    f"audit.metrics.weights.{name} declares the column {column.name}, which {owners[column.name]} has."
                )
            owners[column.name] = name
