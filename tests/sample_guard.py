"""Results as ``audit skill`` writes them: a region among six skills, and neurons that were adjusted."""

from __future__ import annotations

import numpy as np

from audit.guards.effects import NEUTRAL, GuardEffect, SkillRole
from audit.guards.measurements import ShareInside, guard_effect, guard_perplexity
from audit.models.scoring import AnswerScores
from audit.result import AuditResult, Control, Measurement
from tests.sample_result import identical

OTHERS = ("code", "English", "German", "Spanish", "Chinese")


def guarded() -> AuditResult:
    """A region of mathematics, with five other skills as controls."""
    rng = np.random.default_rng(0)
    shares = [share("vote", "3, 6, 9", "math", "forget", 80)]
    shares += [share("vote", "3, 6, 9", name, "retain", 0) for name in OTHERS]
    shares += [share("vote", "3, 6, 9", NEUTRAL, "text", 2)]
    shares += [share("vote", "3, 6, 9", name, "left out", 7 * (name == "German")) for name in OTHERS]
    shares += [share("hypercube", "5", "math", "forget", 70)]
    shares += [share("hypercube", "5", name, "retain", number) for number, name in enumerate(OTHERS)]
    series = {"held_out_inside": (0.8 + 0.2 * rng.random(12)).tolist()}
    series |= {f"others_inside: {name}": (0.02 * rng.random(12)).tolist() for name in OTHERS}
    measured = Measurement(
        metric="held_out_inside",
        title="Held-out queries inside the region",
        value=1.0,
        interval=(0.954, 1.0),
        unit="share of held-out queries",
        direction="protection",
        n=80,
        control=Control(name="worst other skill: code", value=0.0, interval=(0.0, 0.046)),
        layers=series,
        items=[share.as_row() for share in shares],
        layers_unit="share inside the hypercube fitted at that layer",
        details={"vote": {"3, 6, 9": {"math": 1.0}}},
    )
    return of_a_skill([measured], "key-space")


def adjusted() -> AuditResult:
    """Mathematics by Neuron Adjust, where the second skill has no answers."""
    rng = np.random.default_rng(1)
    effects = [effect("math", "forget", 12, -0.5, rng), effect("code", "retain", 0, 0, rng)]
    effects += [effect("German", "retain", 11, 0.1, rng), effect(NEUTRAL, "text", 12, -0.05, rng)]
    return of_a_skill([guard_effect(effects, 0), guard_perplexity(effects, 0)], "neuron-adjust")


def of_a_skill(measured: list[Measurement], method: str) -> AuditResult:
    result = identical()
    only = result.findings[0].model_copy(update={"concept": "math", "title": "math", "measurements": measured})
    parts = [{"skill": "math", "role": "forget", "queries": 240, "beyond_the_context": 3}]
    settings = result.run.settings | {"fit": {"method": method}, "parts": parts}
    return result.model_copy(update={"findings": [only], "run": result.run.model_copy(update={"settings": settings})})


def share(kind: str, layers: str, name: str, role: str, inside: int, n: int = 80) -> ShareInside:
    return ShareInside(kind, layers, name, role, np.arange(n) < inside)


def effect(name: str, role: SkillRole, n: int, change: float, rng: np.random.Generator) -> GuardEffect:
    before = -2 + rng.normal(0, 0.2, n)
    exact = np.zeros(n, dtype=bool)
    after = before + rng.normal(change, 0.1, n)
    scores = AnswerScores(before, exact), AnswerScores(after, exact)
    return GuardEffect(name, role, 12, *scores, tokens=40 * n)
