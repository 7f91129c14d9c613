"""BLEU of the unlearned model's answers against the base's (ConceptVectors, arXiv 2406.11614): did behaviour change?

NLTK's sentence BLEU with smoothing method 3, white-space tokens, case-sensitive, on the generated text alone. The
paper's script scores the last 100 positions, prompt included, and swaps reference and hypothesis; the number with these
roles swapped is in ``details["reference_rule"]``. Identical texts under four words score below 1, so compare the value
with ``base``.
"""

from __future__ import annotations

from audit.metrics.answers._texts import measure_texts
from audit.metrics.contract import Evidence
from audit.result import Measured
from concepts.similarity import bleu

TITLE = "BLEU against the base's answers"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def measure(evidence: Evidence) -> Measured:
    swapped = measure_texts(evidence, lambda base, other: bleu(other, base), unit="BLEU")
    return measure_texts(evidence, bleu, unit="BLEU", details={"reference_rule": {"unlearned": swapped.value}})
