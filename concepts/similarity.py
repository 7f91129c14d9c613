"""Similarity of two texts, by BLEU and ROUGE-L. Pure functions of strings; both packages are slow to import."""

from __future__ import annotations


def bleu(reference: str, hypothesis: str) -> float:
    """Sentence BLEU with NLTK's smoothing method 3, 0 to 1; 0 for an empty hypothesis or no shared word.

    Words are separated by white space, and case counts. A text of fewer than four words scores below 1 with itself.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    return float(sentence_bleu([reference.split()], hypothesis.split(), smoothing_function=SmoothingFunction().method3))


def rouge_l(reference: str, hypothesis: str, stemmer: bool = False) -> float | None:
    """F-measure of the longest common subsequence (package rouge-score), 0 to 1.

    Words are runs of a to z and 0 to 9; ``None`` if the reference has none.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    if not DefaultTokenizer(stemmer).tokenize(reference):
        return None
    return float(RougeScorer(["rougeL"], use_stemmer=stemmer).score(reference, hypothesis)["rougeL"].fmeasure)
