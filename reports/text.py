"""Results on a terminal: one string, 100 columns, plain ASCII where the terminal's encoding is not UTF-8."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import StringIO
from itertools import groupby
from typing import Any, Final, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from audit.result import AuditResult, Finding, Measurement, Weights
from reports.formatting import clip, integer, interval, moment, number, shorten
from reports.weights import summary
from reports.wording import VERDICTS, headline, name_of, read

WIDTH: Final = 100
MOST_LAYERS: Final = 3
MOST_THEMES: Final = 8
MOST_TOKENS: Final = 40
"""Characters of the tokens of one vector: what is left of a line beside its numbers."""
WRITTEN: Final = {"bleu": "BLEU", "rouge_l": "ROUGE-L"}
"""Scores of written answers as they are printed."""
EFFECT_COLUMNS: Final = ("held-out queries of", "scored", "before", "after", "change", "interval", "exact", "after")
INSIDE_COLUMNS: Final = ("held-out queries of", "n", "inside", "interval", "wanted", "reached")
ASCII: Final = str.maketrans(
    {"−": "-", "–": "-", "…": "...", "↓": "v", "↑": "^", "≈": "~", "─": "-", "━": "-", "╶": "-", "╴": "-", "·": ","}
)


def render(result: AuditResult) -> str:
    """What was found, concept by concept, with the numbers behind it and what was not checked."""
    return printed(lambda console: _result(console, result))


def vectors_table(document: Mapping[str, Any]) -> str:
    """What ``audit find`` found: one line a value vector, the clearest first."""
    return printed(lambda console: _vectors(console, document))


def skill_table(result: AuditResult) -> str:
    """What ``audit skill`` found: one row a skill, on queries that the guard was not fitted on."""
    return printed(lambda console: _skill(console, result))


def render_demo(results: Mapping[str, AuditResult], conclusion: str) -> str:
    """The ways of unlearning side by side, then what they say together."""
    return printed(lambda console: _demo(console, results, conclusion))


def printed(draw: Callable[[Console], None]) -> str:
    """What ``draw`` prints: no markup read out of any string, no trailing blanks, in the terminal's characters."""
    stream = StringIO()
    draw(Console(file=stream, width=WIDTH, markup=False, emoji=False, highlight=False, color_system=None))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    text = "\n".join(lines).strip("\n")
    return text if speaks_utf8() else text.translate(ASCII).encode("ascii", "backslashreplace").decode("ascii")


def speaks_utf8() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"


# ---- one result


def _result(console: Console, result: AuditResult) -> None:
    subjects = result.subjects
    console.print(headline(result))
    console.print(f"{shorten(subjects.unlearned.path, 80)} against {shorten(subjects.base.path, 80)}")
    for finding in result.findings:
        _finding(console, finding)
    console.print()
    for place, line in enumerate(weights_lines(result.weights)):
        _hanging(console, "" if place else "Weights", line)
    _hanging(console, "Not checked", not_checked(result))
    _hanging(console, "Ran", f"{moment(result.run.started)}, seed {result.run.seed}, {result.run.device}")


def _finding(console: Console, finding: Finding) -> None:
    console.print()
    console.print(f"{VERDICTS[finding.verdict].label.upper()}  {name_of(finding, 70)}")
    _indented(console, shorten(finding.reason, 2_000))
    _indented(console, f"Would reverse it: {shorten(finding.would_reverse, 2_000)}")
    measured = [found for found in finding.measurements if found.value is not None]
    if measured:
        console.print()
        console.print(Padding(measurements_table(measured), (0, 0, 0, 2)))
    for reason, titles in _unmeasured(finding).items():
        _indented(console, f"Not measured, {reason}: {'; '.join(titles)}")


def _unmeasured(finding: Finding) -> dict[str, list[str]]:
    """Reason -> tests that could not run for it."""
    reasons: dict[str, list[str]] = {}
    for found in finding.measurements:
        if found.value is None:
            reasons.setdefault(shorten(found.not_measured or "no reason recorded", 200), []).append(_title(found))
    return reasons


def measurements_table(measurements: Sequence[Measurement]) -> Table:
    """The numbers side by side."""
    table = _table(["test", "base", "unlearned", "interval", "control", "p"], left=1)
    for found in measurements:
        control = _number(found.control.value if found.control else None)
        reading = read(found)
        value = f"{reading.sign} {reading.value}".strip()
        table.add_row(_title(found), _number(found.base), value, _interval(found), control, _number(found.p_value))
    return table


def weights_lines(weights: Weights) -> Iterable[str]:
    """How much changed, where most, and what the changed neurons agree on."""
    yield summary(weights)
    ranked = sorted(weights.per_layer, key=lambda found: -(found.relative_change or 0.0))
    most = [found for found in ranked[:MOST_LAYERS] if found.relative_change]
    if most:
        listed = ", ".join(f"{found.layer} ({number(found.relative_change or 0.0)})" for found in most)
        yield f"Most in layers {listed}, relative to the base."
    if weights.themes:
        themes = ", ".join(shorten(theme, 30) for theme in weights.themes[:MOST_THEMES])
        yield f"The neurons that changed most write: {themes}"


def not_checked(result: AuditResult) -> str:
    """How many tests did not run, and which."""
    if not result.not_checked:
        return "nothing: every test of this version ran"
    names = sorted({shorten(found.metric, 40).replace("_", " ") for found in result.not_checked})
    count = len(result.not_checked)
    return f"{integer(count)} {'test' if count == 1 else 'tests'} ({', '.join(names)}); the report gives the reasons"


# ---- vectors, demo


def _vectors(console: Console, document: Mapping[str, Any]) -> None:
    name = shorten(str(document.get("title") or document.get("concept") or "(no name)"), 80)
    vectors: Sequence[Mapping[str, Any]] = document.get("vectors") or []
    if not vectors:
        console.print(f"No value vector writes {name} more clearly than chance.")
        return
    screened = document.get("screened")
    of = f" of {integer(screened)} screened" if isinstance(screened, int) else ""
    console.print(f"{name}: {integer(len(vectors))} value vectors{of}, the clearest first")
    table = _table(["layer", "neuron", "sign", "score", "p", "effect", "tokens"], left=0)
    tokens = table.columns[-1]
    tokens.justify, tokens.no_wrap = "left", False  # the only column that may be narrowed
    for found in vectors:
        table.add_row(
            str(found.get("layer")),
            str(found.get("neuron")),
            _sign(found.get("sign")),
            _number(found.get("score")),
            _number(found.get("p_value")),
            _effect(found.get("effect")),
            clip(" ".join(_distinct(found.get("tokens") or [])), MOST_TOKENS),
        )
    console.print(table)
    split = document.get("words_of_several_tokens") or []
    if split:
        few = ", ".join(shorten(str(word), 24) for word in split[:MOST_THEMES])
        more = f" and {len(split) - MOST_THEMES} more" if len(split) > MOST_THEMES else ""
        console.print(f"Not looked for, as this tokenizer splits them: {few}{more}.")
    said = document.get("effect")
    if isinstance(said, str):
        console.print(f"Effect: {shorten(said, 300)}")
    elif isinstance(said, Mapping):
        _causal(console, name, said)


def _effect(effect: object) -> str:
    """How far the concept's answers fall, and a mark where the vector carries it."""
    if not isinstance(effect, Mapping):
        return "–"
    return f"{_number(effect['target']['value'])}{' *' if effect.get('carries') else ''}"


def _causal(console: Console, name: str, said: Mapping[str, Any]) -> None:
    """What ablation showed: units, questions, and the set that carries the concept or that there is none."""
    console.print(
        f"Effect: fall of held-out answers in nats per token when the vector is zeroed, over "
        f"{said['questions']['held_out']} questions; * marks vectors whose effect is specific to {name}."
    )
    found = said["set"]
    if found is None:
        limit = _number(said["collateral_limit"])
        console.print(f"Set: none costs unrelated answers less than {limit} nats per token.")
        return
    _set(console, name, found)
    _noise(console, said.get("noise") or [])
    for at, held in (said.get("coefficients_held") or {}).items():
        differs = said.get("held_at_zero_differs_from_zeroed_by") if at == "zero" else None
        console.print(
            f"With their coefficients held at {'0' if at == 'zero' else 'their mean'}, the weights as they are: "
            f"{_number(held['target']['value'])} and {_number(held['unrelated']['value'])}"
            + (f"; no answer differs by more than {_number(differs)} from zeroing." if differs is not None else ".")
        )
    for score, lost in (said.get("written_answers") or {}).items():
        low, high = lost["target"]["interval"] or (None, None)
        console.print(
            f"Answers it then writes lose {_number(lost['target']['value'])} {WRITTEN[score]} against those of before "
            f"({_number(low)} to {_number(high)}), unrelated ones {_number(lost['unrelated']['value'])}, "
            f"without the control vectors {_number(lost['control']['target']['value'])}."
        )


def _set(console: Console, name: str, found: Mapping[str, Any]) -> None:
    """The set and its effect; where it is specific, its vectors as ``audit ablate --vectors`` takes them."""
    effect, share, vectors = found["held_out"], found["share_of_the_way_to_the_floor"], found["vectors"]
    low, high = effect["ratio"]["interval"] or (None, None)
    coherent = sum(vector["coherent"] for vector in vectors)
    if not found["specific"]:
        console.print(
            f"No set carries {name} specifically: at least 5 times as far, and surely more than once. "
            "The best within the limit:"
        )
    console.print(
        f"Set: {len(vectors)} vector{'s' * (len(vectors) != 1)}, {coherent} of which write its words. "
        f"Zeroed, answers about {name} fall by "
        f"{_number(effect['target']['value'])} and unrelated ones by {_number(effect['unrelated']['value'])}, "
        f"{_number(effect['ratio']['value'])} times as far ({_number(low)} to {_number(high)}); control vectors "
        f"{_number(found['control']['target']['value'])}."
        + (f" That is {share:.0%} of the way to where nothing calls for the answers." if share is not None else "")
    )
    if found["specific"]:
        _indented(console, ", ".join(f"{vector['layer']}.{vector['neuron']}" for vector in vectors))


def _noise(console: Console, doses: Sequence[Mapping[str, Any]]) -> None:
    """The set's dose curve, its controls beside it."""
    if not doses:
        return
    table = _table(
        ["noise on the set, of its norm", "answers fall", "interval", "unrelated", "control vectors"], left=0
    )
    for dose in doses:
        table.add_row(
            _number(dose["size"]),
            _number(dose["target"]["value"]),
            interval(dose["target"]["interval"]) or "no interval",
            _number(dose["unrelated"]["value"]),
            _number(dose["control"]["target"]["value"]),
        )
    console.print(table)


def _skill(console: Console, result: AuditResult) -> None:
    (finding,) = result.findings
    settings = result.run.settings
    console.print(f"{VERDICTS[finding.verdict].label.upper()}  {name_of(finding, 60)}, by {settings['fit']['method']}")
    _indented(console, shorten(finding.reason, 2_000))
    console.print()
    beside = {found.metric: found for found in finding.measurements}
    if (inside := beside.pop("held_out_inside", None)) is not None:
        for (region, layers), rows in groupby(inside.items, key=lambda row: (row["region"], row["layers"])):
            console.print(f"Inside the {region} of layer{'s' * (',' in str(layers))} {layers}")
            console.print(_inside_table([*rows]))
            console.print()
    if (effect := beside.pop("guard_effect", None)) is not None:
        console.print(_effect_table(effect.items))
        _indented(console, "Log-probabilities per answer token, in nats; exact: answers whose every token comes first.")
        if effect.not_measured:
            _indented(console, f"Not measured: {effect.not_measured}.")
    if measured := [found for found in beside.values() if found.value is not None]:
        console.print()
        console.print(measurements_table(measured))
    for part in settings["parts"]:
        if part["beyond_the_context"]:
            count = integer(part["beyond_the_context"])
            _indented(console, f"{count} prompts of {part['skill']} are beyond the model's context and were left out.")


def _inside_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(INSIDE_COLUMNS, left=1)
    for row in rows:
        reached = {True: "yes", False: "no", None: ""}[row["reached"]]
        bounds = interval((row["low"], row["high"]))
        name = f"{row['skill']} ({row['role']})"
        table.add_row(name, str(row["n"]), _number(row["inside"]), bounds, row["goal"] or "", reached)
    return table


def _effect_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(EFFECT_COLUMNS, left=1)
    for row in rows:
        numbers = [_number(row[name]) for name in ("before", "after", "change")]
        bounds = "no interval" if row["low"] is None else interval((row["low"], row["high"]))
        exact = [_number(row[name]) for name in ("exact_before", "exact_after")]
        table.add_row(f"{row['skill']} ({row['role']})", str(row["scored"]), *numbers, bounds, *exact)
    return table


def _distinct(tokens: Iterable[object]) -> Iterable[str]:
    """Tokens as words: those that differ in case or spaces alone are shown once."""
    words: dict[str, str] = {}
    for token in tokens:
        word = shorten(str(token), 24)
        words.setdefault(word.casefold(), word)
    return words.values()


def _sign(sign: object) -> str:
    return {1: "+", -1: "−"}.get(sign, str(sign)) if isinstance(sign, int) else "–"


def _demo(console: Console, results: Mapping[str, AuditResult], conclusion: str) -> None:
    """Rows are tests, columns the base and each way; a test is shown where at least one way measured it."""
    for line in conclusion.splitlines():
        console.print(shorten(line, 2_000))
        console.print()
    columns = {(name, found.concept): found for name, result in results.items() for found in result.findings}
    named = len(columns) > len(results)
    table = _table(["test", "base", *(_column(*key, named) for key in columns)], left=1)
    verdicts = [VERDICTS[found.verdict].label.upper() for found in columns.values()]
    table.add_row("Verdict", "", *verdicts, end_section=True)
    for metric, title, base in _tests(columns.values()):
        cells = [_value(found, metric) for found in columns.values()]
        table.add_row(title, base, *cells)
    console.print(table)


def _column(name: str, concept: str | None, named: bool) -> str:
    return shorten(f"{name}: {concept}" if named and concept is not None else name, 24)


def _tests(findings: Iterable[Finding]) -> Iterable[tuple[str, str, str]]:
    """(metric, title, the base's number) of every test that gave a number, in the order of the first finding."""
    seen: dict[str, tuple[str, set[float]]] = {}
    for finding in findings:
        for found in finding.measurements:
            if found.value is not None:
                _, bases = seen.setdefault(found.metric, (_title(found), set()))
                bases |= {found.base} if found.base is not None else set()
    for metric, (title, bases) in seen.items():
        yield metric, title, number(bases.pop()) if len(bases) == 1 else "differs" if bases else "–"


def _value(finding: Finding, metric: str) -> str:
    found = next((found for found in finding.measurements if found.metric == metric), None)
    return "–" if found is None or found.value is None else f"{read(found).sign} {number(found.value)}".strip()


# ---- pieces


def _table(columns: Sequence[str], left: int) -> Table:
    """A table whose first ``left`` columns are words and whose others are numbers."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for place, name in enumerate(columns):
        words = place < left
        side: Literal["left", "right"] = "left" if words else "right"
        table.add_column(name, justify=side, no_wrap=not words, ratio=1 if words else None, overflow="fold")
    return table


def _indented(console: Console, text: str) -> None:
    console.print(Padding(Text(text), (0, 0, 0, 2)))


def _hanging(console: Console, label: str, text: str) -> None:
    grid = Table.grid(padding=0)
    grid.add_column(width=13, no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_row(label, text)
    console.print(grid)


def _title(found: Measurement) -> str:
    return shorten(found.title or found.metric, 60)


def _number(value: object) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else "–"


def _interval(found: Measurement) -> str:
    return interval(found.interval) or "–"
