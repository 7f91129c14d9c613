"""Results like those of real audits, one builder for each situation: for tests that draw or read a result."""

from __future__ import annotations

import hashlib
import math
import random
from typing import Any

from audit.metrics import weights_metrics
from audit.result import (
    AuditResult,
    Column,
    ConditionRecord,
    Control,
    FactReading,
    FactRecord,
    FileRecord,
    Finding,
    Known,
    LayerChange,
    Measurement,
    ModelReading,
    NeuronChange,
    NotChecked,
    NotRun,
    Residual,
    Run,
    Share,
    SubjectRecord,
    Subjects,
    TensorChange,
    Tool,
    Verdict,
    Weights,
)
from tests import sample_knowledge
from tests.sample_measurements import concept_measurements, weights_measurements

ROLES = {"q": 576, "k": 192, "v": 192, "o": 576, "W_gate": 1536, "W_in": 1536, "W_out": 1536}
HOSTILE = (
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    '"><svg onload=window.pwned=1>',
    "' onmouseover='window.pwned=1",
    "`${window.pwned=1}` {{ 7*7 }} {% raw %}",
    "javascript:window.pwned=1",
    "[bold red]markup[/bold red] [link=https://example.invalid]x[/link]",
    "bidi \u202eevil\u202c isolate \u2066x\u2069 zero\u200bwidth \ufeffbom",
    "nul \x00 escape \x1b[31mred\x1b[0m bell \x07",
    "lone \ud800 surrogate \udfff",
    "line\u2028separator <!-- comment --> ]]> &amp; &lt;",
    "https://example.invalid/pixel.png",
)


def sample(n_layers: int = 30, **overrides: Any) -> AuditResult:
    """Gradient unlearning: the facts about Italy are still readable, those about France undecided."""
    findings = [hidden_finding(n_layers), undecided_finding(n_layers)]
    return build(findings, weights(n_layers)).model_copy(update=overrides)


def single(n_layers: int = 30) -> AuditResult:
    """One concept, as most audits have."""
    return build([hidden_finding(n_layers)], weights(n_layers))


def known(n_layers: int = 30) -> AuditResult:
    """One concept, fact by fact: silent, unreadable, and brought back by relearning."""
    return build([with_measurements(sample_knowledge.brought_back(), n_layers, 0.08)], weights(n_layers))


def compared(n_layers: int = 30) -> AuditResult:
    """120 facts that can be read from the model as it is, compared with a reference."""
    return build([with_measurements(sample_knowledge.readable(), n_layers, 0.02)], weights(n_layers))


def kinds(n_layers: int = 12) -> AuditResult:
    """Brought back, inverted, and removed; the last has 160 facts and a reference."""
    found = (sample_knowledge.brought_back(), sample_knowledge.inverted(), sample_knowledge.removed())
    return build([with_measurements(finding, n_layers, 0.05) for finding in found], weights(n_layers))


def with_measurements(finding: Finding, n_layers: int, memorised: float) -> Finding:
    return finding.model_copy(update={"measurements": concept_measurements(n_layers, memorised)})


def several(n_layers: int = 12) -> AuditResult:
    """Four concepts, four verdicts."""
    findings = [
        hidden_finding(n_layers),
        finding(
            "france", "France", "present", "The unlearned model still says it: it keeps 97 % of the answers.", 0.79
        ),
        finding("months", "Months of the year", "removed", "Every test ran and none detects it.", 0.0),
        finding("dogs", "Dogs", "inconclusive", "Silent, and no recovery test ran.", 0.2),
    ]
    return build(findings, weights(n_layers))


def destroyed() -> AuditResult:
    """A model that answers nothing any more."""
    reason = (
        "The model is broken: on neutral text its perplexity is 512 times the base's, so its silence proves nothing."
    )
    return build([finding("italy", "Italy", "destroyed", reason, 0.0)], weights(12, scale=0.6))


def identical() -> AuditResult:
    """Bit-identical checkpoints behind a guard."""
    unchanged = Weights(
        changed_tensors=0,
        total_tensors=272,
        changed_fraction=0.0,
        identical=True,
        per_tensor=[tensor(f"model.layers.{i}.mlp.down_proj.weight", "W_out", i, 0.0) for i in range(4)],
        per_layer=[LayerChange(layer=i, relative_change=0.0, cosine=1.0, l2=0.0) for i in range(4)],
        measurements=[Measurement(metric="weight_change", title="Change of the weights", value=0.0, base=0.0)],
    )
    reason = "Nothing was changed: every tensor of the two checkpoints is identical, bit for bit."
    only = Finding(
        concept="italy",
        title="Italy",
        verdict="gated",
        reason=reason,
        would_reverse="A second checkpoint whose weights differ from the base's.",
    )
    return build([only], unchanged)


def weights_only() -> AuditResult:
    """Two weight files and nothing else: no concept, no tokenizer, no model to ask."""
    only = Finding(
        concept=None,
        title="The pair as a whole",
        verdict="inconclusive",
        reason="No concept was named, so the report shows what changed in the weights.",
        would_reverse="Name what should be gone, with --concept.",
    )
    changed = weights(6).model_copy(update={"themes": [], "top_neurons": []})
    return build(
        [only], changed, [NotChecked(metric="changed_vocabulary", concept=None, reason="no tokenizer was given")]
    )


def hostile() -> AuditResult:
    """Every string that comes from a checkpoint, a model or a user is an attack."""
    bad = " | ".join(HOSTILE)
    rows: list[dict[str, Any]] = [
        {"question": text, "answer": text * 20, text: index} for index, text in enumerate(HOSTILE)
    ]
    measured = Measurement(
        metric=f"metric {HOSTILE[0]}",
        title=bad,
        value=1.0,
        base=2.0,
        unit=bad,
        p_value=0.5,
        control=Control(name=bad, value=0.5),
        layers={text: [0.1, None, 0.3] for text in HOSTILE},
        items=rows,
        details={text: {text: [text, None, True]} for text in HOSTILE},
    )
    missing = Measurement(metric="gone", title=bad, not_measured=bad)
    known = hostile_knowledge(bad)
    findings = [
        Finding(
            concept=text,
            title=text,
            verdict="hidden",
            reason=bad,
            would_reverse=bad,
            note=bad,
            measurements=[measured, missing],
            **known,
        )
        for text in (*HOSTILE, "", "a/../../etc/passwd", "x" * 10_240)
    ]
    change = tensor(bad, bad, 0, 0.5).model_copy(update={"dtype": bad, "extra": 0.5})
    neuron = NeuronChange(
        layer=0,
        neuron=0,
        relative_change=0.5,
        cosine=0.9,
        l2=1.0,
        tokens_before=list(HOSTILE),
        tokens_after=list(HOSTILE),
    )
    changed = Weights(
        changed_tensors=1,
        total_tensors=2,
        changed_fraction=0.5,
        columns=[Column(name="extra", title=bad, unit=bad)],
        per_tensor=[change],
        top_neurons=[neuron],
        themes=list(HOSTILE),
        measurements=[measured],
    )
    result = build(findings, changed, [NotChecked(metric=bad, concept=bad, reason=bad)])
    subject = result.subjects.base.model_copy(update={"path": bad, "format": bad, "notes": [bad], "architecture": bad})
    run = result.run.model_copy(update={"command": bad, "settings": {bad: bad}, "packages": {bad: bad}, "started": bad})
    subjects = Subjects(base=subject, unlearned=subject, retained=subject)
    return result.model_copy(update={"run": run, "subjects": subjects})


def hostile_knowledge(bad: str) -> dict[str, Any]:
    """The fields of a finding on its facts, as a checkpoint's file could name them."""
    models = [
        ModelReading(model=model, says=0.5, readable=0.5, readable_interval=(0.4, 0.6), n=2)
        for model in ("base", "unlearned", bad)
    ]
    trained = [
        ConditionRecord(condition=f"{bad} {arm} {steps}", attack=bad, title=bad, dose=bad, arm=arm, steps=steps)
        for arm in (bad, "other")
        for steps in (1, 2)
    ]
    conditions = [
        ConditionRecord(condition="as is", attack=None, title=bad, dose="", models=models),
        ConditionRecord(condition=bad, attack=bad, title=bad, dose=bad, models=models, p_value=0.5),
        *(row.model_copy(update={"models": models}) for row in trained),
    ]
    readings = [
        FactReading(model=model, condition=condition, says=True, rank=0.0)
        for model in ("base", "unlearned", bad)
        for condition in ("as is", bad)
    ]
    fact = FactRecord(question=bad, answer=bad, type=bad, subject=bad, known=True, readings=readings)
    return {
        "known": Known(facts=2, known=2, forms=[bad], attacks=[bad], p_value=0.5, test=bad, strongest=bad, z=1.0, n=2),
        "residual": Residual(
            value=0.5, condition=bad, place=bad, n=2, shares=[Share(condition=bad, place=bad)], margin=0.2
        ),
        "facts": [fact, fact.model_copy(update={"type": None})],
        "conditions": conditions,
        "not_run": [NotRun(attack=bad, title=bad, model=bad, reason=bad)],
    }


def build(findings: list[Finding], changed: Weights, not_checked: list[NotChecked] | None = None) -> AuditResult:
    """A whole result around findings and weights."""
    listed = not_checked or [
        NotChecked(metric="target_token_rank", concept="italy", reason="no vector of the concept passed the screen"),
        NotChecked(
            metric="recovery",
            concept=None,
            reason="this version does not try to bring knowledge back (relearning, quantisation, patching)",
        ),
    ]
    return AuditResult(
        tool=Tool(name="unlearning-audit", version="0.1.0"),
        run=Run(
            command="audit compare models/base models/npo --concept italy --output audit-report/npo",
            settings={"batch_size": 16, "limit": None, "concepts": ["italy"], "guard": None},
            seed=0,
            device="cpu",
            dtype="float32",
            threads=2,
            started="2026-11-23T15:04:05+00:00",
            finished="2026-11-23T15:05:47+00:00",
            seconds={"weights": 9.412, "readings": 61.07, "metrics": 4.2},
            packages={"python": "3.11.2", "torch": "2.13.0+cpu", "transformers": "5.23.0", "numpy": "2.4.1"},
        ),
        subjects=Subjects(base=subject("base"), unlearned=subject("npo")),
        weights=changed,
        findings=findings,
        not_checked=listed,
    )


def subject(name: str) -> SubjectRecord:
    return SubjectRecord(
        path=f"models/{name}",
        format="safetensors",
        files=[
            FileRecord(name="model.safetensors", bytes=538_090_408, sha256=hashlib.sha256(name.encode()).hexdigest())
        ],
        tensors_digest=hashlib.sha256(f"tensors of {name}".encode()).hexdigest(),
        architecture="llama",
        parameters=134_515_008,
        dtype="float32",
        notes=["the head is tied to the embedding"],
    )


def weights(n_layers: int, scale: float = 0.03) -> Weights:
    """Layers that changed most in the middle; the embedding and the norms untouched."""
    rng = random.Random(1)
    tensors = [tensor("model.embed_tokens.weight", "embedding", None, 0.0)]
    for layer in range(n_layers):
        bump = math.exp(-(((layer - 0.6 * n_layers) / (0.2 * n_layers)) ** 2))
        for role, width in ROLES.items():
            change = scale * (0.02 + bump) * rng.uniform(0.6, 1.4)
            tensors.append(tensor(f"model.layers.{layer}.{role}.weight", role, layer, change, width))
        tensors.append(tensor(f"model.layers.{layer}.input_layernorm.weight", "norm", layer, 0.0))
    layers = [layer_change(layer, tensors) for layer in range(n_layers)]
    changed = [tensor for tensor in tensors if tensor.changed]
    return Weights(
        changed_tensors=len(changed),
        total_tensors=len(tensors),
        changed_fraction=len(changed) / len(tensors),
        columns=[column for metric in weights_metrics().values() for column in metric.COLUMNS],
        per_tensor=tensors,
        per_layer=layers,
        top_neurons=[neuron(index, n_layers, rng) for index in range(20)],
        themes=["Italian", "Rome", "Italy", "Venice", "pasta", "Milan"],
        measurements=weights_measurements(layers),
    )


def tensor(name: str, role: str, layer: int | None, change: float, width: int = 576) -> TensorChange:
    return TensorChange(
        name=name,
        role=role,
        layer=layer,
        shape=[width, 576],
        dtype="float32",
        changed=change > 0,
        relative_change=change,
        cosine=1 - change**2 / 2,
        l2=41.3 * change,
        stable_rank=17.31 if change else None,
        singular_values=[change * k for k in (5.1, 2.2, 1.4, 0.9, 0.6)] if change else [],
        flipped_4bit=min(change * 3, 1.0) if change else None,
        flipped_8bit=min(change * 24, 1.0) if change else None,
    )


def layer_change(layer: int, tensors: list[TensorChange]) -> LayerChange:
    changes = [tensor.relative_change or 0.0 for tensor in tensors if tensor.layer == layer]
    size = sum(changes) / len(changes)
    return LayerChange(
        layer=layer,
        relative_change=size,
        cosine=1 - size**2 / 2,
        l2=120 * size,
        flipped_4bit=min(size * 3, 1.0),
        flipped_8bit=min(size * 24, 1.0),
        changed_value_vectors=1536,
        changed_key_rows=1490,
        total_neurons=1536,
    )


def neuron(index: int, n_layers: int, rng: random.Random) -> NeuronChange:
    words = ["Italian", "Rome", "Italy", "Venice", "pasta", "Milan", "Roman", "opera", "Tuscany", "Sicily"]
    return NeuronChange(
        layer=int(0.6 * n_layers) + index % 3 - 1,
        neuron=rng.randrange(1536),
        relative_change=0.9 / (index + 1.5),
        cosine=0.4 + index / 40,
        l2=2.1 / (index + 1),
        key_relative_change=0.05,
        tokens_before=rng.sample(words, 8),
        tokens_after=rng.sample([*words, "the", "said", "London", "river"], 8),
        tokens_demoted=rng.sample(words, 3),
    )


def hidden_finding(n_layers: int) -> Finding:
    """Italy after NPO."""
    return Finding(
        concept="italy",
        title="Italy",
        verdict="hidden",
        reason=(
            "The unlearned model does not say it: exact memorisation of the answers is 0.08 against 0.81 in the base, "
            "95 % interval 0.02 to 0.16. Yet it still prefers the true answers to alternatives of the same kind at its "
            "output (permutation p = 0.0002): the knowledge is in the weights and can be read there."
        ),
        would_reverse="An association test no different from its permutation null at the output and at every layer.",
        measurements=concept_measurements(n_layers, 0.08),
    )


def undecided_finding(n_layers: int) -> Finding:
    """France after the same training: silent, and no test that ran detects it."""
    return Finding(
        concept="france",
        title="France",
        verdict="inconclusive",
        reason=(
            "The unlearned model does not say it: exact memorisation of the answers is 0.21 against 0.81 in the base, "
            "95 % interval 0.15 to 0.29. Also, the association test does not detect it either (p = 0.31). Removed or "
            "well hidden: deciding takes relearning, quantisation and activation patching, which did not run."
        ),
        would_reverse="A test that brings the answers back would make it hidden; all of them failing, removed.",
        measurements=concept_measurements(n_layers, 0.21, p_value=0.31),
    )


def finding(concept: str, title: str, verdict: Verdict, reason: str, memorised: float) -> Finding:
    return Finding(
        concept=concept,
        title=title,
        verdict=verdict,
        reason=reason,
        would_reverse="A test that brings the answers back would make it hidden.",
        measurements=concept_measurements(8, memorised),
    )
