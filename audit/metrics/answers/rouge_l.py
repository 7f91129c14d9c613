"""ROUGE-L of the unlearned model's answers against the base's (ConceptVectors, arXiv 2406.11614): did behaviour change?

F-measure of the longest common subsequence, by the package rouge-score, no stemming. Its tokens are runs of a to z and
0 to 9, so a base answer in another script has none; such questions are left out and counted, not scored 0. The paper
used the package ``rouge``, which reads words as sets and sentences in any order (``tests.reference``).
"""

from __future__ import annotations

from audit.metrics.answers._texts import measure_texts
from audit.metrics.contract import Subjects
from audit.result import Measurement
from concepts.concept import Concept

TITLE = "ROUGE-L against the base's answers"
NEEDS = frozenset({"tokenizer", "model", "questions"})


def rouge_l(reference: str, hypothesis: str, stemmer: bool = False) -> float | None:
    """F of ROUGE-L, 0 to 1; ``None`` where the reference has no token."""
    from rouge_score.rouge_scorer import RougeScorer  # slow to import
    from rouge_score.tokenizers import DefaultTokenizer

    if not DefaultTokenizer(stemmer).tokenize(reference):
        return None
    return float(RougeScorer(["rougeL"], use_stemmer=stemmer).score(reference, hypothesis)["rougeL"].fmeasure)


def measure(subjects: Subjects, concept: Concept) -> Measurement:
    return measure_texts(subjects, "rouge_l", TITLE, rouge_l, unit="ROUGE-L F", details={"stemmer": False})
