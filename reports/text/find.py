"""Terminal text of ``audit find``: one line a value vector, then what ablating them did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console

from audit.result import (
    DoseRecord,
    EffectRecord,
    Estimate,
    SetMember,
    ValidationRecord,
    VectorEffectRecord,
    VectorSearch,
    VectorSetRecord,
)
from reports.formatting import clip, integer, interval, shorten
from reports.text.layout import number_or_dash, print_indented, printed, table

MOST_WORDS: Final = 8
MOST_TOKENS: Final = 40
"""Characters of the tokens of one vector: what the numbers leave of a line."""
SCORES: Final = {"bleu": "BLEU", "rouge_l": "ROUGE-L"}


def render_vectors(search: VectorSearch) -> str:
    return printed(lambda console: _search(console, search))


def _search(console: Console, search: VectorSearch) -> None:
    name = shorten(search.title or search.concept or "(no name)", 80)
    if not search.vectors:
        console.print(f"No value vector writes {name} more clearly than chance.")
        return
    count = integer(len(search.vectors))
    console.print(f"{name}: {count} value vectors of {integer(search.screened)} screened, clearest first")
    _vectors_table(console, search)
    _skipped_words(console, search.words_of_several_tokens)
    if isinstance(search.effect, str):
        console.print(f"Effect: {shorten(search.effect, 300)}")
    else:
        _validation(console, name, search.effect)


def _vectors_table(console: Console, search: VectorSearch) -> None:
    rows = table(["layer", "neuron", "sign", "score", "p", "effect", "tokens"], text_columns=0)
    tokens = rows.columns[-1]
    tokens.justify, tokens.no_wrap = "left", False  # the only column that may be narrowed
    for vector in search.vectors:
        rows.add_row(
            str(vector.layer),
            str(vector.neuron),
            {1: "+", -1: "−"}.get(vector.sign, str(vector.sign)),
            number_or_dash(vector.score),
            number_or_dash(vector.p_value),
            _vector_effect(vector.effect),
            clip(" ".join(_distinct(vector.tokens)), MOST_TOKENS),
        )
    console.print(rows)


def _vector_effect(effect: VectorEffectRecord | None) -> str:
    """How far the concept's answers fall, with a mark if the vector carries the concept."""
    return "–" if effect is None else f"{_value(effect.target)}{' *' if effect.carries else ''}"


def _distinct(tokens: Iterable[str]) -> Iterable[str]:
    """Tokens as words: those that differ only in case or spaces appear once."""
    words: dict[str, str] = {}
    for token in tokens:
        word = shorten(token, 24)
        words.setdefault(word.casefold(), word)
    return words.values()


def _skipped_words(console: Console, words: Sequence[str]) -> None:
    if words:
        listed = ", ".join(shorten(word, 24) for word in words[:MOST_WORDS])
        more = f" and {len(words) - MOST_WORDS} more" if len(words) > MOST_WORDS else ""
        console.print(f"Skipped, because this tokenizer splits them: {listed}{more}.")


# ---- what ablation showed


def _validation(console: Console, name: str, validation: ValidationRecord) -> None:
    console.print(
        f"Effect: fall of held-out answers in nats per token when the vector is zeroed, over "
        f"{validation.questions.held_out} questions; * marks vectors whose effect is specific to {name}, by exact "
        "tests corrected for the number of vectors."
    )
    if validation.set is None:
        limit = number_or_dash(validation.collateral_limit)
        console.print(f"Set: none costs unrelated answers less than {limit} nats per token.")
        return
    _set(console, name, validation.set)
    _noise(console, validation.noise)
    for dose, effect in validation.coefficients_held.items():
        differs = validation.held_at_zero_differs_from_zeroed_by if dose == "zero" else None
        _coefficients_held(console, dose, effect, differs)
    for score, loss in validation.written_answers.items():
        console.print(
            f"Generated answers lose {_value(loss.target)} {SCORES[score]} against those before the ablation "
            f"({_bounds(loss.target)}), unrelated ones {_value(loss.unrelated)}; without the control vectors "
            f"{_value(loss.control.target)}."
        )


def _set(console: Console, name: str, chosen: VectorSetRecord) -> None:
    """The set, its effect and its core; a specific set is listed."""
    effect, share, vectors = chosen.held_out, chosen.share_of_the_way_to_the_floor, chosen.vectors
    coherent = sum(vector.coherent for vector in vectors)
    plural, singular = "s" * (len(vectors) != 1), "s" * (coherent == 1)
    if not chosen.specific:
        console.print(
            f"No set carries {name} specifically: p < 0.05 over at least 8 questions, effect at least 5 times that on "
            "unrelated answers, 0.05 nats more specific than control vectors. The best set within the limit:"
        )
    console.print(
        f"Set: {len(vectors)} vector{plural}, {coherent} of which promote{singular} its words. "
        f"Zeroed, answers about {name} fall by {_value(effect.target)} and unrelated ones by "
        f"{_value(effect.unrelated)}, a ratio of {_value(effect.ratio)} ({_bounds(effect.ratio)}); control vectors "
        f"{_value(chosen.control.target)}; p = {number_or_dash(chosen.p_value)}."
        + (
            f" This is {share:.0%} of the way to the answers' floor after unrelated questions."
            if share is not None
            else ""
        )
    )
    if chosen.specific:
        print_indented(console, _places(vectors))
    core = [vector for vector in vectors if vector.core]
    if chosen.specific and 0 < len(core) < len(vectors):
        console.print(f"Core: {len(core)} of them have nine tenths of this on the questions that chose the set.")
        print_indented(console, _places(core))


def _places(vectors: Iterable[SetMember]) -> str:
    """As ``audit ablate --vectors`` takes them."""
    return ", ".join(f"{vector.layer}.{vector.neuron}" for vector in vectors)


def _noise(console: Console, doses: Sequence[DoseRecord]) -> None:
    """The set's dose curve next to that of its control vectors."""
    if not doses:
        return
    columns = ["noise on the set, of its norm", "answers fall", "interval", "unrelated", "control vectors"]
    rows = table(columns, text_columns=0)
    for dose in doses:
        rows.add_row(
            number_or_dash(dose.size),
            _value(dose.target),
            interval(dose.target.interval) or "no interval",
            _value(dose.unrelated),
            _value(dose.control.target),
        )
    console.print(rows)


def _coefficients_held(console: Console, dose: str, effect: EffectRecord, differs: float | None) -> None:
    line = (
        f"With their coefficients held at {'0' if dose == 'zero' else 'their mean'} and the weights unchanged: "
        f"{_value(effect.target)} and {_value(effect.unrelated)}"
    )
    compared = f"; no answer differs by more than {number_or_dash(differs)} from zeroing the weights"
    console.print(f"{line}{compared if differs is not None else ''}.")


def _value(estimate: Estimate) -> str:
    return number_or_dash(estimate.value)


def _bounds(estimate: Estimate) -> str:
    return interval(estimate.interval) or "no interval"
