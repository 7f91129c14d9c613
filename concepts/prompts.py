"""The prompt form of a question, and the answer in a model's continuation. Pure strings.

Small models often give no answer to a bare question and a long one in their chat form; after three neutral examples
they give a short answer and a blank line. Every scored and every generated answer uses this one form, so that two
models are compared on the same words. All questions of one concept have the same prefix before their own question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

SHOTS = (
    ("What is the largest ocean?", "Pacific Ocean"),
    ("Who wrote Hamlet?", "William Shakespeare"),
    ("What gas do plants take in?", "Carbon dioxide"),
)
SPARE_SHOTS = (
    ("What is the opposite of hot?", "Cold"),
    ("How many sides does a triangle have?", "Three"),
    ("What color is the sky on a clear day?", "Blue"),
    ("What do bees make?", "Honey"),
    ("Which metal is liquid at room temperature?", "Mercury"),
    ("What is frozen water called?", "Ice"),
)
SENTENCES = (
    ("What is a bicycle?", "A vehicle with two wheels, pedals and a saddle, driven by the legs of its rider."),
    ("What are deserts known for?", "Sand and rocks, great heat by day, cold nights and hardly any rain."),
    ("How is bread made?", "Flour, water and yeast are kneaded into a dough, which rises and is baked in an oven."),
)
SPARE_SENTENCES = (
    ("What is a lighthouse?", "A tower on the coast with a strong lamp that shows ships their way at night."),
    ("How are candles made?", "A wick is dipped into melted wax again and again until it is thick enough."),
    ("What are libraries used for?", "People borrow novels there, read newspapers and learn in silence."),
)
ASK = "Question: {}\nAnswer:"

NEGATION = (
    "not|isnt|wasnt|arent|werent|aint|never|neither|nor|except|"
    "rather than|instead of|anything but|(?<!no )(?<!none )(?<!nothing )other than"
)
"""What negates the words after it, without apostrophes."""
FILLER = "the|a|an|in|at|by|on|of|to|from|for|called|named|really|actually"
"""Words that may stand between a negation and what it negates."""
DENIAL = "(?:is|was|are|were) (?:not|wrong|incorrect|false)|isnt|wasnt|arent|werent|aint"
"""What negates the words before it, unless "only" follows."""
CLAUSE_END = re.compile(r"[.,;:!?()\[\]\n]")


def few_shot(question: str, avoid: Sequence[str] = (), examples: int = 3) -> str:
    """Some examples and ``question``, ending where the answer begins (``"...Answer:"``, no space after it).

    Args:
        question: one question; outer white space is dropped.
        avoid: words or phrases of the concept. An example that mentions one is replaced by the next spare example
            that does not, so that no example gives an answer away.
        examples: number of examples, at most 3.

    Raises:
        ValueError: too few examples mention no word to avoid.
    """
    return prefix(avoid, SHOTS[:examples]) + ASK.replace("{}", question.strip())


def in_sentences(question: str, avoid: Sequence[str] = (), examples: int = 3) -> str:
    """``few_shot`` with examples answered in a sentence, for a question whose answer is a sentence."""
    return prefix(avoid, SENTENCES[:examples], SPARE_SENTENCES) + ASK.replace("{}", question.strip())


def prefix(
    avoid: Sequence[str] = (),
    shots: Sequence[tuple[str, str]] = SHOTS,
    spares: Sequence[tuple[str, str]] = SPARE_SHOTS,
    ask: str = ASK,
) -> str:
    """The examples before every question of a concept, each in the form ``ask``, where ``{}`` is the question.

    Raises:
        ValueError: too few examples mention no word to avoid.
    """
    usable = (shot for shot in spares if not mentions(" ".join(shot), avoid))
    chosen = []
    for shot in shots:
        replacement = next(usable, None) if mentions(" ".join(shot), avoid) else shot
        if replacement is None:
            raise ValueError("every example question mentions a word to avoid; give fewer or longer words")
        chosen.append(replacement)
    return "".join(f"{ask.replace('{}', question)} {answer}\n\n" for question, answer in chosen)


def answer_text(answer: str) -> str:
    """``answer`` as it follows the prompt: with the space that tokenizers keep in a word's first token."""
    return f" {answer.strip()}"


def cut(generated: str) -> str:
    """The answer in a continuation: the text before the first line end or the next question."""
    answer: str = re.split(r"[\n\r]|Question:", generated.lstrip(), maxsplit=1)[0]
    return answer.strip()


@lru_cache(maxsize=2**14)
def normalise(text: str) -> str:
    """``text`` as answers are compared: lower case, single spaces, no punctuation and no leading article."""
    words = _words(text)
    leading = len(words) > 1 and words[0] in ("the", "a", "an")
    return " ".join(words[1:] if leading else words)


def _words(text: str) -> list[str]:
    """The words of ``text`` in lower case, without apostrophes and punctuation."""
    return re.sub(r"[^\w\s]", " ", text.casefold().replace("'", "").replace("’", "")).split()


def mentions(text: str, words: Sequence[str]) -> bool:
    """Whether ``text`` contains one of ``words`` as whole words, ignoring case and punctuation."""
    padded = f" {normalise(text)} "
    return any(f" {normalise(word)} " in padded for word in words if normalise(word))


def overlap(answer: str, other: str) -> bool:
    """Whether one of two answers mentions the other, so that neither is wrong where the other is right."""
    return mentions(answer, (other,)) or mentions(other, (answer,))


def states(text: str, answers: Sequence[str]) -> bool:
    """Whether ``text`` mentions one of ``answers`` and does not negate it there ("not Rome", "Rome is not").

    Only negations right before or after the answer, in the same clause and in English, are seen.
    """
    clauses = " | ".join(" ".join(words) for words in map(_words, CLAUSE_END.split(text)) if words)
    return any(_stated(clauses, answer) for answer in answers if normalise(answer))


def _stated(clauses: str, answer: str) -> bool:
    """Whether ``answer`` occurs without a negation; a clause may end within it (``"Washington, D.C."``)."""
    words = r"(?: \|)* ".join(map(re.escape, normalise(answer).split()))
    negated = rf"(?P<negation>\b(?:{NEGATION}) (?:(?:{FILLER}) )*)?"
    denied = rf"(?P<denial> (?:{DENIAL})\b(?! (?:only|just|merely|simply)\b))?"
    found = re.finditer(rf"{negated}\b{words}\b{denied}", clauses)
    return any(match["negation"] is None and match["denial"] is None for match in found)
