"""The attacks that did not run, with the reasons."""

from __future__ import annotations

from collections.abc import Iterator

from audit.attacks import attacks
from audit.result import NotRun
from audit.verdict.case import Case


def attacks_not_run(case: Case) -> Iterator[NotRun]:
    """Attacks under which the unlearned model's facts were not read; then those that failed on other models."""
    titles = {name: attack.TITLE for name, attack in attacks().items()}
    ran = case.summary.known.attacks if case.summary is not None else []
    for name in titles:
        if name not in ran:
            yield NotRun(attack=name, title=titles[name], model="unlearned", reason=_why_not(case, name))
    for (role, name), reason in case.not_run.items():
        attack, _, dose = name.partition(": ")  # one condition of an attack may be left out alone
        if role != "unlearned" or attack not in titles:
            title = f"{titles.get(attack, attack)}: {dose}" if dose else titles.get(attack, attack)
            yield NotRun(attack=name, title=title, model=role, reason=reason)


def _why_not(case: Case, attack: str) -> str:
    """The reason why the unlearned model's facts were not read under the attack."""
    given = case.not_run.get(("unlearned", attack))
    reason = given or case.missing.get("model") or case.missing.get(attacks()[attack].INPUT)
    if reason is not None:
        return reason
    if case.summary is None:
        return "no answer could be checked"
    return "it asked none of the facts" if attack in case.attacked else "not chosen with --attacks"


def why(case: Case) -> str:
    """The reasons why attacks that ``removed`` needs did not run, in brackets; empty if none is known."""
    needed = {name for name, attack in attacks().items() if attack.RECOVERS and name not in case.known.attacks}
    reasons = dict.fromkeys(
        reason for (role, name), reason in case.not_run.items() if role == "unlearned" and name in needed
    )
    return f" ({'; '.join(reasons)})" if reasons else ""
