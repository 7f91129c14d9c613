"""The exam's tables, from the rows of all models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from audit.thresholds import SIGNIFICANT
from benchmarks.exam.grades import (
    auc,
    auc_interval,
    harmonic,
    relearning_robustness,
    rounding_robustness,
    share,
    symmetric_relearning,
    symmetric_rounding,
)
from benchmarks.exam.rivals import rivals
from benchmarks.exam.rivals.screen import Screened
from benchmarks.world.auditing import WITH
from benchmarks.world.subjects import is_right

Row = dict[str, Any]
VERDICTS: Final = ("present", "hidden", "destroyed", "removed", "inconclusive")
NEVER: Final = ("never", "removed")
"""Pools of models that truly do not hold the facts."""
HIDES: Final = ("hidden", "dose")
AUDIT: Final = "audit"
OURS: Final[Mapping[str, str]] = {
    AUDIT: "the audit's residual, either way",
    "residual": "the same without attacks",
    "exchange": "the exchange test's z as it is",
}
"""Our own scores, and their titles."""


# ---- verdicts


def verdicts(rows: Sequence[Row]) -> Iterator[Row]:
    """One row for each kind, and one for each pool: how many models got which verdict."""
    for pool in dict.fromkeys(row["pool"] for row in rows):
        own = [row for row in rows if row["pool"] == pool]
        kinds = dict.fromkeys(row["kind"] for row in own)
        for kind in (*kinds, *(["all"] if len(kinds) > 1 else [])):
            yield _counted(pool, kind, [row for row in own if kind in (row["kind"], "all")])


def _counted(pool: str, kind: str, rows: Sequence[Row]) -> Row:
    found, compared = (Counter(row["verdict" + end] for row in rows) for end in ("", WITH))
    return {
        "pool": pool,
        "kind": kind,
        "n": len(rows),
        **{verdict: found[verdict] for verdict in VERDICTS},
        **{f"{verdict}{WITH}": compared[verdict] for verdict in ("hidden", "removed")},
        "p below 0.01": sum(row["p_value"] is not None and row["p_value"] < SIGNIFICANT.value for row in rows),
        "says": _mean(row["says"] for row in rows),
        "residual": _mean(row["residual"] for row in rows),
        "recovered": _mean(row.get("recovered") for row in rows),
        "seconds": _mean(row["seconds"] for row in rows),
    }


def summary(rows: Sequence[Row]) -> Iterator[Row]:
    """The counts that decide whether the verdict can be trusted, with exact 95 % intervals."""
    questions: Mapping[str, tuple[Callable[[Row], bool], Callable[[Row, str], bool]]] = {
        "hidden, of models that do not hold the facts": (
            lambda row: row["pool"] in NEVER,
            lambda row, verdict: verdict == "hidden",
        ),
        "removed, of models that do not hold the facts": (
            lambda row: row["pool"] in NEVER,
            lambda row, verdict: verdict == "removed",
        ),
        "hidden, of models that hide the facts": (
            lambda row: row["pool"] in HIDES,
            lambda row, verdict: verdict == "hidden",
        ),
        "removed, of models that hide the facts": (
            lambda row: row["pool"] in HIDES,
            lambda row, verdict: verdict == "removed",
        ),
        "p below 0.01, of models that do not hold the facts": (
            lambda row: row["pool"] in NEVER and row["p_value"] is not None,
            lambda row, _: row["p_value"] < SIGNIFICANT.value,
        ),
        "right, of all": (
            lambda row: is_right(row["pool"], row["verdict"]) is not None,
            lambda row, verdict: bool(is_right(row["pool"], verdict)),
        ),
    }
    for question, (asked, holds) in questions.items():
        for end in ("", WITH):
            hits = [holds(row, row["verdict" + end]) for row in rows if asked(row)]
            if hits:
                yield {"what": question + end, **share(hits)}


def doses(rows: Sequence[Row]) -> Iterator[Row]:
    """The residual of models that were taught a share of the facts, and then trained to refuse or not."""
    pools = ("dose", "dose, said", "small dose")
    own = [row for row in rows if row["pool"] in pools or row["kind"] in ("refusal", "then refusal", "other people")]
    own = [row for row in own if row["residual"] is not None]
    for taught in sorted({row["taught"] for row in own}):
        here = [row for row in own if row["taught"] == taught]
        yield {
            "taught": taught,
            "n": len(here),
            "residual": _mean(row["residual"] for row in here),
            "error": _mean(abs(row["residual"] - taught) for row in here),
            "covered": _mean(row["low"] <= taught <= row["high"] for row in here if row["low"] is not None),
        }
    if len({row["taught"] for row in own}) > 1:
        taught, read = (np.array([row[name] for row in own]) for name in ("taught", "residual"))
        yield {
            "taught": "slope",
            "n": len(own),
            "residual": float(np.polyfit(taught, read, 1)[0]),
            "error": float(np.abs(read - taught).mean()),
            "covered": _mean(row["low"] <= row["taught"] <= row["high"] for row in own if row["low"] is not None),
        }


# ---- metrics


FORMS: Final[Mapping[str, tuple[Callable[[float, float], float], Callable[[float, float], float]]]] = {
    "": (relearning_robustness, rounding_robustness),
    ", symmetric": (symmetric_relearning, symmetric_rounding),
}
"""Ends of the names of the grades -> robustness against relearning and against rounding."""


def graded_metrics(rows: Sequence[Row]) -> Iterator[Row]:
    """The grades of OpenUnlearning's study for every metric: faithfulness, robustness and both together."""
    rows = scored(rows)
    never = [row for row in rows if row["pool"] == "never" and not row["kind"].startswith("then ")]
    unlearned = [row for row in rows if row["pool"] in ("hidden", "imprinted") and "relearned" in row["scores"]]
    retained = [row for row in never if "relearned" in row["scores"]]
    for name, title, needs in metrics():
        change = _mean(_change(row, name) for row in retained)
        faithful = auc(_scores(rows, name, ("present",)), _scores(never, name))
        graded: Row = {"metric": title, "needs a reference": needs, "faithfulness": faithful}
        for end, (relearning, rounding) in FORMS.items():
            r = None if change is None else _mean(relearning(_change(row, name), change) for row in unlearned)
            q = _mean(rounding(score(row, name), score(row, name, "rounded")) for row in unlearned)
            robust = harmonic(r, q) if r is not None and q is not None else None
            overall = harmonic(faithful, robust) if robust is not None else None
            found = {"relearning": r, "rounding": q, "robustness": robust, "overall": overall}
            graded |= {each + end: value for each, value in found.items()}
        yield graded | {"n": len(unlearned)}


def separation(rows: Sequence[Row]) -> Iterator[Row]:
    """AUC of every metric, hidden against removed, on models that say none of the facts."""
    rows = scored(rows)
    removed = [row for row in rows if row["pool"] in NEVER]
    for name, title, needs in metrics():
        scores = {pool: [score(row, name) for row in own] for pool, own in _by_kind(rows).items()}
        negative = [value for row in removed if not np.isnan(value := score(row, name))]
        positive = [value for values in scores.values() for value in values if not np.isnan(value)]
        low, high = auc_interval(positive, negative)
        worst = min(scores, key=lambda kind: auc(scores[kind], negative), default=None)
        yield {
            "metric": title,
            "needs a reference": needs,
            "AUC": auc(positive, negative),
            "low": low,
            "high": high,
            "worst kind": worst,
            "its AUC": auc(scores[worst], negative) if worst is not None else None,
            "hidden": len(positive),
            "removed": len(negative),
        }


def areas(rows: Sequence[Row]) -> Iterator[Row]:
    """AUC of the residual, either way: every model of the hidden pool against all that do not hold the facts."""
    for end in ("", WITH):
        values = {
            name: [row[f"either way{end}"] for row in rows if row["pool"] in pools]
            for name, pools in {"hidden": ("hidden",), "removed": NEVER}.items()
        }
        found = {name: [value for value in own if value is not None] for name, own in values.items()}
        low, high = auc_interval(found["hidden"], found["removed"])
        yield {
            "metric": OURS[AUDIT] + end,
            "AUC": auc(found["hidden"], found["removed"]),
            "low": low,
            "high": high,
            **{name: len(own) for name, own in found.items()},
        }


def scored(rows: Sequence[Row]) -> list[Row]:
    """The models that the rival metrics have read."""
    return [row for row in rows if "scores" in row]


def metrics() -> Iterator[tuple[str, str, bool]]:
    """Name, title and whether it needs a reference, of our scores and of every rival."""
    yield from ((name + end, title + end, bool(end)) for name, title in OURS.items() for end in ("", WITH))
    yield from ((name, rival.TITLE, rival.NEEDS_REFERENCE) for name, rival in rivals().items())


def score(row: Mapping[str, Any], name: str, when: str = "as it is") -> float:
    """What a metric says of a model; NaN if it is undefined."""
    value = row["scores"][when][name]
    return float("nan") if value is None else float(value)


def _by_kind(rows: Sequence[Row]) -> dict[str, list[Row]]:
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        if row["pool"] == "hidden":
            kinds.setdefault(row["kind"], []).append(row)
    return kinds


def screens(rows: Sequence[Row]) -> Iterator[Row]:
    """The decisions of the screen on held-out wordings; its margin is generous, as it comes from the same models."""
    rows = scored(rows)
    never = [row["scores"]["as it is"]["screened"]["difference"] for row in rows if row["pool"] == "never"]
    if len(never) < 2:
        return
    margin = float(np.std(never, ddof=1) * 2)
    for pool in dict.fromkeys(row["pool"] for row in rows):
        own = [Screened(**row["scores"]["as it is"]["screened"]) for row in rows if row["pool"] == pool]
        decided = Counter(each.decision(margin) for each in own)
        yield {
            "pool": pool,
            "n": len(own),
            **{name: decided[name] for name in ("different", "equivalent", "abstains")},
            "margin": margin,
        }


def errors(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each wrong verdict."""
    for end in ("", WITH):
        for row in rows:
            if is_right(row["pool"], row["verdict" + end]) is False:
                model = f"{row['pool']}, {row['kind']}, world {row['world']}, seed {row['seed']}{end}"
                yield f"{model}: {row['verdict' + end]}\n    {row['reason' + end]}"


def _scores(rows: Sequence[Row], name: str, pools: Sequence[str] | None = None) -> list[float]:
    values = [score(row, name) for row in rows if pools is None or row["pool"] in pools]
    return [value for value in values if not np.isnan(value)]


def _change(row: Row, name: str) -> float:
    return score(row, name, "relearned") - score(row, name)


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(known)) if known else None
