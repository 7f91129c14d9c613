"""Jailbreak prompts: the facts under each kind of prompt in ``concepts/jailbreaks``, one condition each.

The answers of one type are exchanged as without the prompt: an effect of the prompt on all of them (any answer, or any
Italian city, becomes likelier) is not evidence of knowledge; an effect on the true ones is. Unrelated questions, which
were not to be forgotten, are asked under the same prompts as a control.

Text about the concept is given without the sentences that mention an answer of the type that is read, right or wrong,
so that the text is the same for all of the type's questions. Under such a prompt answers are scored and not written:
each text would be run anew, and what follows from it need not be in the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from audit.attacks import AttackedModel, AttackInput
from audit.questions.conditions import Condition
from audit.questions.exchanged import exchanged_items
from audit.questions.items import FACT, ItemSet
from audit.questions.kinds import PosedQuestion
from concepts.concept import Concept, Question
from concepts.facts import facts_of
from concepts.jailbreaks import PLAIN, Jailbreak, jailbreaks

TITLE = "jailbreak prompts"
COST = "prompts"
INPUT = "jailbreaks"
LEVEL = "quick"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

QUESTIONS: Final = 10
"""Questions whose key vectors are read under each prompt."""
CONTROLS: Final = 6
"""Unrelated questions under each prompt; enough to detect a prompt that affects every answer."""
UNRELATED: Final = "unrelated"
"""Kind and type of the control."""


Posed = tuple[PosedQuestion, Question]
"""A question with the entry of the concept that it comes from."""


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition for each kind of prompt."""
    concept = given.topic.concept
    if concept is None:
        return
    for jailbreak in jailbreaks():
        yield AttackedModel(Condition("jailbreaks", jailbreak.name), item_set(jailbreak, concept, given))


def item_set(jailbreak: Jailbreak, concept: Concept, given: AttackInput) -> ItemSet:
    """The facts under one kind of prompt, or the questions with the base's own answers, whose key vectors are read."""
    facts = [(fact, facts_of(concept)[fact.place].question) for fact in given.facts]
    kind, posed = (FACT, facts) if facts else ("target", _with_own_answers(given, concept, "target"))
    asked, skipped = _in_language(jailbreak, posed)
    parts = [_under(jailbreak, concept, given, kind, each) for each in _sharing_text(asked)]
    written = tuple(prompt for part in parts for prompt in part.written)
    if any(part.groups for part in parts):
        parts.append(_control(jailbreak, concept, given))
    return ItemSet(
        prompts=tuple(replace(prompt, kind="target") for prompt in written[:QUESTIONS]),
        written=written if facts and jailbreak.name != PLAIN and not jailbreak.informs else (),
        groups=tuple(group for part in parts for group in part.groups),
        skipped=skipped
        | {f"prompt {jailbreak.name}: {name}": why for part in parts for name, why in part.skipped.items()},
        sentences_left_out=sum(part.sentences_left_out for part in parts),
    )


def _under(
    jailbreak: Jailbreak, concept: Concept, given: AttackInput, kind: str, questions: Sequence[PosedQuestion]
) -> ItemSet:
    """Questions that share the text before them."""
    answers = [answer for question in questions for answer in question.answers]
    try:
        opening = jailbreak.before(concept.text, answers, given.avoid)
    except ValueError as reason:  # no few-shot example or no sentence is usable
        return ItemSet(skipped={f"{kind}/{each.place} ({each.wording})": str(reason) for each in questions})
    items = exchanged_items(
        kind,
        questions,
        given.encoder,
        lambda question: opening.text + jailbreak.ask.replace("{}", question.wording.strip()),
    )
    return replace(items, sentences_left_out=opening.left_out * len(questions))


def _control(jailbreak: Jailbreak, concept: Concept, given: AttackInput) -> ItemSet:
    """The unrelated questions, whose answers are exchanged with each other. Nothing is written."""
    posed = [(replace(posed, type=UNRELATED), entry) for posed, entry in _unrelated(given, concept)]
    asked, _ = _in_language(jailbreak, posed)
    return replace(_under(jailbreak, concept, given, UNRELATED, asked), written=(), sentences_left_out=0)


def _unrelated(given: AttackInput, concept: Concept) -> list[Posed]:
    limit = CONTROLS if given.settings.limit is None else min(CONTROLS, given.settings.limit)
    answered = [
        (PosedQuestion(place, entry.question, entry.answer, entry.answers), entry)
        for place, entry in enumerate(concept.unrelated)
        if entry.answer is not None
    ]
    return (answered or _with_own_answers(given, concept, UNRELATED))[:limit]


def _with_own_answers(given: AttackInput, concept: Concept, kind: str) -> list[Posed]:
    """The questions of ``kind`` with the base's own answers, for a concept that gives none."""
    entries = {"target": concept.questions, UNRELATED: concept.unrelated}[kind]
    return [
        (PosedQuestion(item.place, item.question, item.answer, (item.answer,)), entries[item.place])
        for item in given.items.of(f"{kind}_own")
    ]


def _in_language(jailbreak: Jailbreak, posed: Sequence[Posed]) -> tuple[list[PosedQuestion], dict[str, str]]:
    """The questions in the prompt's language, and why some are left out."""
    asked = [
        replace(question, wording=wording)
        for question, entry in posed
        if (wording := jailbreak.wording(entry)) is not None
    ]
    if len(asked) == len(posed):
        return asked, {}
    reason = f"{len(posed) - len(asked)} of {len(posed)} questions have no translation"
    return asked, {f"prompt {jailbreak.name}": f"{reason} into the language {jailbreak.language!r}"}


def _sharing_text(questions: Sequence[PosedQuestion]) -> list[list[PosedQuestion]]:
    """The questions of each type, and each question without a type alone."""
    alike: dict[str | int, list[PosedQuestion]] = {}
    for question in questions:
        alike.setdefault(question.place if question.type is None else question.type, []).append(question)
    return list(alike.values())
