"""ROUGE-L of the unlearned model's answers against the base's (ConceptVectors, arXiv 2406.11614): did behaviour change?

F-measure of the longest common subsequence, by the package rouge-score, without stemming. Its tokens are runs of a to z
and 0 to 9, so a base answer in another script has none; such questions are excluded and counted, not scored 0. The
paper used the package ``rouge``, which reads words as sets and sentences in any order (``tests.reference``).
"""

from __future__ import annotations

from audit.metrics.answers._texts import measure_texts
from audit.metrics.contract import Evidence
from audit.result import Measured
from concepts.similarity import rouge_l

TITLE = "ROUGE-L against the base's answers"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def measure(evidence: Evidence) -> Measured:
    return measure_texts(evidence, rouge_l, unit="ROUGE-L F", details={"stemmer": False})
