"""The records of a result, and ``result.json`` (format version 1).

This package imports neither torch nor modules that read weights, so that reports can be rendered anywhere.
Numbers are finite or ``None``; a ``None`` value always has the reason why it was not measured.
"""

from audit.result.checks import (
    Check,
    Difference,
    FileCheck,
    PathCheck,
    Plan,
    Planned,
    PlannedAttack,
    Signature,
    Verification,
)
from audit.result.document import FORMAT, FORMAT_VERSION, AuditResult, Run, Tool, check_output
from audit.result.files import write_text
from audit.result.finding import Finding, NotChecked, Verdict
from audit.result.measurement import (
    AS_IS,
    Cell,
    Control,
    Direction,
    Interval,
    LayerReading,
    Measured,
    Measurement,
    Number,
    Reading,
    Record,
    not_measured,
)
from audit.result.subjects import FileRecord, SubjectRecord, Subjects
from audit.result.vectors import (
    ControlledEffectRecord,
    DoseRecord,
    EffectRecord,
    Estimate,
    SetMember,
    ValidationQuestions,
    ValidationRecord,
    VectorEffectRecord,
    VectorRecord,
    VectorSearch,
    VectorSetRecord,
)
from audit.result.weights import Column, ColumnValue, LayerChange, NeuronChange, TensorChange, Weights

__all__ = [
    "AS_IS",
    "FORMAT",
    "FORMAT_VERSION",
    "AuditResult",
    "Cell",
    "Check",
    "Column",
    "ColumnValue",
    "Control",
    "ControlledEffectRecord",
    "Difference",
    "Direction",
    "DoseRecord",
    "EffectRecord",
    "Estimate",
    "FileCheck",
    "FileRecord",
    "Finding",
    "Interval",
    "LayerChange",
    "LayerReading",
    "Measured",
    "Measurement",
    "NeuronChange",
    "NotChecked",
    "Number",
    "PathCheck",
    "Plan",
    "Planned",
    "PlannedAttack",
    "Reading",
    "Record",
    "Run",
    "SetMember",
    "Signature",
    "SubjectRecord",
    "Subjects",
    "TensorChange",
    "Tool",
    "ValidationQuestions",
    "ValidationRecord",
    "VectorEffectRecord",
    "VectorRecord",
    "VectorSearch",
    "VectorSetRecord",
    "Verdict",
    "Verification",
    "Weights",
    "check_output",
    "not_measured",
    "write_text",
]
