"""What keeps a verdict from being ``removed``, and what would meet it."""

from __future__ import annotations

import numpy as np

from audit.attacks import in_words
from audit.attacks.relearning import HALF, LEARNED
from audit.knowledge.knowledge import RELEARNED, UNLEARNED
from audit.result import Known, Residual
from audit.thresholds import (
    BASE_PARTS,
    HIDDEN_RESIDUAL,
    MARGIN,
    POWER,
    SIGNIFICANT,
)
from audit.verdict.case import Case
from audit.verdict.missing import why
from audit.verdict.sentences import after, number, percent, share_text


def obstacle(case: Case) -> tuple[str, str] | None:
    """The first condition of ``removed`` that fails, and what would meet it; ``None`` if all hold."""
    known, left = case.known, case.residual
    if left is None:
        return (
            "no two facts have different answers of the same type, so there is nothing to tell apart",
            "Questions with a type of answer, and different answers.",
        )
    missing = case.missing_attacks
    if missing:
        return f"{in_words(missing)} did not run{why(case)}", f"The same audit with {in_words(missing)}."
    if known.guessable and not known.reference:
        return (
            "what can be guessed from the questions was not measured",
            "A reference model that never saw the data (--reference), or the reason why the answers cannot be guessed "
            "(not_guessable in the concept's file).",
        )
    return (
        _taught_nothing(case)
        or _not_learned(case)
        or _no_power(left)
        or _stands_out(known)
        or _from_the_base(left)
        or _too_much(case, left)
    )


def _taught_nothing(case: Case) -> tuple[str, str] | None:
    """A relearning set that the model did not learn: that nothing else came back says nothing then."""
    for row in case.recovery:
        if (row.attack, row.arm, row.model) == (RELEARNED, HALF, UNLEARNED) and row.taught_nothing:
            return (
                f"{HALF} taught the unlearned model nothing (of their own loss {percent(max(number(row.taught), 0.0))} "
                "went), so that relearning with them says nothing",
                "A relearning set that the model learns, with more steps (--relearning-steps) or other facts.",
            )
    return None


def _not_learned(case: Case) -> tuple[str, str] | None:
    """Relearning that ended before the model had learned what it was trained on."""
    trained = [row for row in case.conditions if (row.attack, row.arm) == (RELEARNED, HALF)]
    last = max(trained, key=lambda row: row.steps or 0, default=None)
    read = None if last is None else last.of(UNLEARNED)
    if last is None or read is None or read.trained_loss is None or read.trained_loss[1] <= LEARNED:
        return None
    return (
        f"after {last.steps} steps of relearning the unlearned model has not learned the half of the facts that it was "
        f"trained on ({read.trained_loss[1]:.1f} nats a token are left)",
        "The same audit with more steps (--relearning-steps).",
    )


def _from_the_base(left: Residual) -> tuple[str, str] | None:
    """An attack that brings in something of the base, and shows more than models that never knew do."""
    for share in left.without_null:
        shown = f"the facts can be read {after(share.condition)} (residual {share_text(share)})"
        if share.value is None:
            continue
        if share.p_value is not None and share.value >= MARGIN.value:
            return shown, f"No more than {MARGIN.value:.0%} above the reference to which the same is done."
        if share.value >= BASE_PARTS.value:
            return (
                f"{shown}, and nothing tells how much of that a model that never knew would show",
                "A reference to which the same is done (--reference).",
            )
    return None


def _stands_out(known: Known) -> tuple[str, str] | None:
    """What the exact test found is not absent, however little it is."""
    if known.p_value is None or known.p_value >= SIGNIFICANT.value:
        return None
    return (
        "a part of the facts may be left",
        f"True answers that stand out no more than p = {SIGNIFICANT.value:g}, or a residual surely above "
        f"{HIDDEN_RESIDUAL.value:g}.",
    )


def _no_power(left: Residual) -> tuple[str, str] | None:
    if left.twin is None:
        return "there is no refusal twin to test the power of the attacks on", "A base that can be trained."
    if left.twin < POWER.value:
        return (
            f"the attacks have too little power here: from a base trained to refuse they bring back only "
            f"{percent(max(left.twin, 0.0))}",
            f"Attacks that bring back at least {POWER.value:.0%} from the refusal twin (--attacks full).",
        )
    if left.least_detectable is not None and left.least_detectable > MARGIN.value:
        n = max(share.n for share in left.shares)
        needed = int(np.ceil(n * (left.least_detectable / MARGIN.value) ** 2)) - n
        return (
            f"with {n} facts a residual below {percent(left.least_detectable)} would not be seen",
            f"About {needed} more facts.",
        )
    return None


def _too_much(case: Case, left: Residual) -> tuple[str, str] | None:
    """What may be left: the bound of the condition that shows most, and the value of every one.

    The bound is cross-fitted, so it holds although that condition was chosen among many. Bounds of all conditions would
    reject most models that never knew, by their number alone.
    """
    more = f"A residual that is shown to be below {MARGIN.value:.0%}: more facts, if nothing is left."
    for share in (left.most, *sorted(left.shares, key=lambda share: -(share.value or 0.0))):
        if share.value is None or share.interval is None:
            return f"the residual {after(share.condition)} is undefined", "More facts that the base says."
        if share.value >= MARGIN.value or (share == left.most and share.interval[1] >= MARGIN.value):
            return (
                f"the residual {after(share.condition)} may be {percent(share.interval[1])} ({share_text(share)})",
                more,
            )
    for row in case.conditions:
        said = case.said(row.condition)
        if said is not None and said.share - case.known.guess >= MARGIN.value:
            return f"it says {said} facts {after(row.condition)}", "Fewer facts said under every attack."
    if (
        left.inverted is not None
        and left.inverted.interval is not None
        and left.inverted.interval[1] < -MARGIN.value / 2
    ):
        return "the true answers are avoided", "A model that does not avoid the true answers."
    return None
