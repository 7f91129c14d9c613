"""What comes back when one class of the base's components is put into the unlearned model (arXiv 2410.06606).

KRS = 1 - MSE(base, patched) / MSE(base, unlearned), over the logits at the answer's tokens: 1 if the base's answers are
back, 0 if nothing changed, undefined for two models with the same answers. Beside it the same share of the answers'
log-probability and of the divergence from the base.

The value is that of the value vectors, which are weights. Embedding outputs, attention outputs and coefficients are
activations: computed by the base from the question, so that those of late layers hand the answer in. Compare them with
the retained model and with activations of another question.
"""

from __future__ import annotations

from collections.abc import Sequence

from audit.metrics.contract import Evidence
from audit.metrics.internals._patching import NEEDS, counts, patching_of
from audit.patching.readings import SAME, PatchReadings
from audit.patching.restoration import Restored
from audit.result import Cell, Interval, Measured, not_measured
from audit.statistics import ratio_interval

__all__ = ["NEEDS"]

TITLE = "Answers restored by the base's value vectors"
VALUE = "value vectors"
LAYERED = ("value vectors", "coefficients", "attention")


def measure(evidence: Evidence) -> Measured:
    readings = patching_of(evidence)
    plain = readings.plain["unlearned"].select(readings.facts)
    if plain.mse.mean() <= SAME:
        return not_measured("both models give the same answers, so there is nothing to restore")
    whole = [each for each in readings.classes("unlearned") if _is_whole(readings, each) and not each.floor]
    chosen = next((each for each in whole if each.component == VALUE), None)
    if chosen is None:
        return not_measured("its FFN is made of experts, whose value vectors are not put in one by one")
    value = readings.recovery("unlearned", chosen).krs
    lost = ratio_interval(chosen.scores.mse, plain.mse)
    return Measured(
        value=value,
        interval=None if lost is None else _complement(lost),
        retained=_retained(readings, chosen),
        unit="share of the change of the answers' logits (KRS)",
        direction="none",
        n=len(plain.mse),
        layers={name: _by_layer(readings, name) for name in LAYERED if _windows(readings, name)},
        layers_unit="KRS of the window of layers",
        items=[_row(readings, each) for each in readings.classes("unlearned") if not each.floor],
        details=counts(readings),
    )


def _complement(interval: Interval) -> Interval:
    return 1 - interval[1], 1 - interval[0]


def _is_whole(readings: PatchReadings, restored: Restored) -> bool:
    return restored.layers in (None, (0, len(readings.moved["unlearned"]) - 1))


def _same(readings: PatchReadings, role: str, like: Restored, floor: bool) -> Restored | None:
    """The patch of another model, or of another question, that corresponds to ``like``."""
    key = (like.component, like.layers, floor)
    return next((each for each in readings.classes(role) if (each.component, each.layers, each.floor) == key), None)


def _retained(readings: PatchReadings, like: Restored) -> float | None:
    if "retained" not in readings.plain:
        return None
    same = _same(readings, "retained", like, False)
    return None if same is None else readings.recovery("retained", same).krs


def _row(readings: PatchReadings, restored: Restored) -> dict[str, Cell]:
    recovery = readings.recovery("unlearned", restored)
    floor = _same(readings, "unlearned", restored, True)
    first, last = restored.layers or (None, None)
    return {
        "component": restored.component,
        "first_layer": first,
        "last_layer": last,
        "krs": recovery.krs,
        "log_probability": recovery.logprob,
        "divergence": recovery.kl,
        "another_question": None if floor is None else readings.recovery("unlearned", floor).krs,
        **({"retained": _retained(readings, restored)} if "retained" in readings.plain else {}),
    }


def _windows(readings: PatchReadings, component: str) -> Sequence[Restored]:
    """The windows of one class, without all of its layers together."""
    found = [each for each in readings.restored["unlearned"] if each.component == component and not each.floor]
    return [each for each in found if not _is_whole(readings, each)]


def _by_layer(readings: PatchReadings, component: str) -> list[float | None]:
    """KRS of the window that each layer belongs to."""
    series: list[float | None] = []
    for each in _windows(readings, component):
        assert each.layers is not None  # a window has layers
        series += [readings.recovery("unlearned", each).krs] * (each.layers[1] - each.layers[0] + 1)
    return series
