"""One measurement of every shape a metric can take: sampled, with layers, with items, without base, not measured."""

from __future__ import annotations

import random
from typing import Any

from audit.result import Control, LayerChange, LayerReading, Measurement


def weights_measurements(layers: list[LayerChange]) -> list[Measurement]:
    change = [layer.relative_change for layer in layers]
    return [
        Measurement(
            metric="weight_change",
            title="Change of the weights",
            source="weights",
            value=0.01234,
            base=0.0,
            unit="L2 norm of the update / L2 norm of the base",
            direction="change",
            n=134_515_008,
            layers={"unlearned": change},
            details={"cosine": 0.99992, "l2": 12.3},
        ),
        Measurement(
            metric="code_flips",
            title="Codes that change when quantised",
            source="weights",
            value=0.0312,
            base=0.0,
            unit="share of 4-bit codes",
            direction="change",
            n=134_000_000,
            layers={
                "4 bit": [layer.flipped_4bit for layer in layers],
                "8 bit": [layer.flipped_8bit for layer in layers],
            },
            details={"share_8bit": 0.41, "rounding": "nearest, symmetric, absolute maximum"},
        ),
        Measurement(
            metric="neuron_change",
            title="Value vectors that changed",
            source="weights",
            value=1.0,
            base=0.0,
            unit="share of value vectors that differ in any bit",
            direction="change",
            n=46_080,
            layers={"share changed": [1.0] * len(layers), "median relative change": [(x or 0) / 40 for x in change]},
        ),
    ]


def concept_measurements(n_layers: int, memorised: float, p_value: float = 0.0002) -> list[Measurement]:
    """What an audit measures of one concept, in the order of the metrics."""
    return [memorisation(memorised), association(n_layers, p_value), log_probability(), *vectors(n_layers), *health()]


def memorisation(value: float) -> Measurement:
    rows: list[dict[str, Any]] = [
        {"question": f"Question {i} about the country?", "answer": "Rome", "base": 0.8, "unlearned": i % 3 / 4}
        for i in range(34)
    ]
    return Measurement(
        metric="exact_memorisation",
        title="Exact memorisation of the answers",
        source="answers",
        value=value,
        interval=(max(value - 0.06, 0.0), value + 0.08),
        base=0.81,
        base_interval=(0.7, 0.9),
        unit="share of answer tokens",
        direction="knowledge",
        n=34,
        control=Control(name="unrelated questions", value=0.78, interval=(0.69, 0.86), base=0.8),
        items=rows,
        details={"answers": "given", "seed": 0, "own_answers": {"n": 34, "base": 1.0}},
    )


def association(n_layers: int, p_value: float = 0.0002) -> Measurement:
    rng, readable = random.Random(2), p_value < 0.05
    base = [9.0 * layer / n_layers + rng.uniform(-0.4, 0.4) for layer in range(n_layers)]
    return Measurement(
        metric="association",
        title="Is the truth told apart from alternatives?",
        source="internals",
        value=6.127 if readable else 0.431,
        interval=(4.9, 7.4) if readable else (-0.7, 1.6),
        base=9.341,
        base_interval=(8.2, 10.4),
        unit="nats, double-centred",
        direction="knowledge",
        n=18,
        p_value=p_value,
        control=Control(name="other countries", value=8.8),
        layers={
            "base": [*base],
            "unlearned": [(0.7 if readable else 0.08) * value for value in base],
            "control": [0.95 * value + 0.2 for value in base[:-1]] + [None],
        },
        null="answers exchanged at random among the group's candidates",
        reading="readable" if readable else "none",
        lens=LayerReading(layer=n_layers - 3, reading="readable" if readable else "none", p_value=1.5 * p_value),
    )


def log_probability() -> Measurement:
    return Measurement(
        metric="answer_log_probability",
        title="Log-probability of the answers",
        source="answers",
        value=-7.8123,
        interval=(-9.1, -6.6),
        base=-0.4321,
        base_interval=(-0.6, -0.3),
        unit="nats per answer token",
        direction="knowledge",
        n=34,
        control=Control(name="unrelated questions", value=-0.52),
    )


def vectors(n_layers: int) -> list[Measurement]:
    return [
        Measurement(
            metric="vector_cosine",
            title="Concept vectors before and after, cosine",
            source="weights",
            value=0.9998231,
            interval=(0.99979, 0.99986),
            base=1.0,
            unit="mean cosine over 20 vectors",
            direction="knowledge",
            n=20,
            control=Control(name="matched vectors", value=0.99983),
            layers={"unlearned": [0.9998 - 0.00001 * layer for layer in range(n_layers)]},
        ),
        Measurement(
            metric="centroid_shift",
            title="Shift of the concept's key vectors",
            source="internals",
            value=0.634,
            base=0.0,
            unit="spreads of the concept's questions in the base",
            direction="change",
            n=34,
            control=Control(name="unrelated questions", value=0.21),
            layers={
                "unlearned": [0.1 + layer / n_layers for layer in range(n_layers)],
                "unrelated questions": [0.05 + layer / n_layers / 3 for layer in range(n_layers)],
            },
        ),
        Measurement(
            metric="target_token_rank",
            title="Rank of the concept's tokens",
            source="weights",
            not_measured="no vector of the concept passed the screen",
        ),
    ]


def health() -> list[Measurement]:
    return [
        Measurement(
            metric="perplexity",
            title="Perplexity on neutral text",
            source="answers",
            value=21.43,
            interval=(18.9, 24.6),
            base=19.87,
            base_interval=(17.4, 22.9),
            unit="perplexity (lower is a healthier model)",
            n=24,
            details={"ratio_to_base": 1.0785, "tokens": 2411},
        ),
        Measurement(
            metric="unrelated_log_probability",
            title="Log-probability of unrelated answers",
            source="answers",
            value=-0.5512,
            interval=(-0.71, -0.41),
            base=-0.5233,
            unit="nats per answer token",
            direction="utility",
            n=50,
        ),
    ]
