"""The conclusion of the demo as text, from its findings alone: two methods of unlearning, and knowledge that is absent.

Hong et al. (2024, arXiv 2406.11614) report that gradient-based unlearning changes the answers but not the vectors that
encode the concept, while an edit of these vectors changes both. The text says whether this holds here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from audit.result import Finding, Measurement
from audit.thresholds import STILL_SAYS

METHODS: Final = {
    "npo": "Training all weights against it (NPO)",
    "needle": "Editing its concept vectors alone",
}
VECTORS_CHANGED: Final = 0.99
"""Mean cosine below which vectors have changed; training at rates that keep a model useful leaves at least 0.999."""


@dataclass(frozen=True)
class Change:
    """Whether answers and vectors changed (``None``: not measured), and the sentences with the numbers."""

    answers: bool | None
    vectors: bool | None
    sentences: str


def summarise(title: str, findings: Mapping[str, Finding]) -> str:
    """One line for each method, then the conclusion from both; and a line on absent knowledge, if it was audited.

    Args:
        title: title of the concept.
        findings: method in ``METHODS``, or ``"absent"`` -> its finding.
    """
    changes = {name: _change(findings[name]) for name in METHODS}
    lines = [f"{METHODS[name]}: {change.sentences}" for name, change in changes.items()]
    absent = [_absent(findings["absent"])] if "absent" in findings else []
    return "\n".join(
        [f"{title}, unlearned in two ways.", *lines, _together(changes["npo"], changes["needle"]), *absent]
    )


def _absent(finding: Finding) -> str:
    return (
        f"{finding.title}, taught to the model by this demo, and audited against the model before it was taught, in "
        f"which this knowledge is truly absent. Verdict: {finding.verdict}. {finding.reason}"
    )


def _change(finding: Finding) -> Change:
    measured = {measurement.metric: measurement for measurement in finding.measurements}
    memorised, cosine = measured.get("exact_memorisation"), measured.get("vector_cosine")
    answers, vectors = _answers_changed(memorised), _vectors_changed(cosine)
    sentences = (
        _answers_sentence(memorised, answers),
        _vectors_sentence(cosine, vectors),
        _collateral_sentence(memorised, measured.get("perplexity")),
        f"Verdict: {finding.verdict}. {finding.reason}",
    )
    return Change(answers, vectors, " ".join(sentence for sentence in sentences if sentence))


def _answers_changed(memorised: Measurement | None) -> bool | None:
    if memorised is None or memorised.value is None or not memorised.base:
        return None
    return memorised.value / memorised.base < STILL_SAYS.value


def _vectors_changed(cosine: Measurement | None) -> bool | None:
    return None if cosine is None or cosine.value is None else cosine.value < VECTORS_CHANGED


def _answers_sentence(memorised: Measurement | None, changed: bool | None) -> str:
    if memorised is None or memorised.value is None or memorised.base is None:
        return f"whether the answers changed was not measured ({_reason(memorised)})."
    numbers = f"{memorised.base:.2f} of the answer tokens right before, {memorised.value:.2f} after"
    if changed is None:
        return f"the base answers nothing, so no change can be measured ({numbers})."
    return f"the answers {'changed' if changed else 'did not change much'} ({numbers})."


def _vectors_sentence(cosine: Measurement | None, changed: bool | None) -> str:
    if cosine is None or cosine.value is None:
        return f"Whether the concept vectors changed was not measured ({_reason(cosine)})."
    control = cosine.control.value if cosine.control else None
    compared = "" if control is None else f"; {_cosine(control)} for vectors of the same layers that do not write it"
    return (
        f"Its concept vectors {'changed' if changed else 'did not change'} "
        f"(mean cosine with the base's {_cosine(cosine.value)}{compared})."
    )


def _collateral_sentence(memorised: Measurement | None, perplexity: Measurement | None) -> str:
    """The effect on unrelated answers and neutral text; empty if neither was measured."""
    costs = []
    control = memorised.control if memorised else None
    if control and control.value is not None and control.base is not None:
        costs.append(f"unrelated answers {control.base:.2f} before, {control.value:.2f} after")
    if perplexity and perplexity.value is not None and perplexity.base is not None:
        costs.append(f"perplexity on neutral text {perplexity.base:.1f} before, {perplexity.value:.1f} after")
    return f"Elsewhere: {'; '.join(costs)}." if costs else ""


def _together(trained: Change, edited: Change) -> str:
    """Whether both results agree with the paper, and if not, which part differs."""
    if None in (trained.answers, trained.vectors, edited.answers, edited.vectors):
        return "Not everything was measured, so the two ways cannot be compared."
    different = [
        text
        for text, differs in (
            ("training did not change the answers", not trained.answers),
            ("training changed the concept vectors too", trained.vectors),
            ("editing the concept vectors did not change the answers", not edited.answers),
            ("the edit did not change the vectors that the audit traces", not edited.vectors),
        )
        if differs
    ]
    if different:
        return f"Hong et al. (2024) report a different outcome for larger models; here {', and '.join(different)}."
    return (
        "This agrees with Hong et al. (2024): after training, what the model says has changed and the vectors that "
        "write the concept have not; after editing these vectors, both have."
    )


def _cosine(value: float) -> str:
    """Three decimals; a cosine that would round to 1 is written as its distance from 1."""
    if value == 1:
        return "1"
    rounded = f"{round(value, 3) + 0.0:.3f}"  # no sign before 0
    return rounded if rounded != "1.000" else f"1 - {1 - value:.0e}"


def _reason(measurement: Measurement | None) -> str:
    return "the metric did not run" if measurement is None else str(measurement.not_measured or "no value for the base")
