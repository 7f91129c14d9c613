"""What SmolLM2 knows about every concept of the library, and the vector that writes it most clearly.

Names on the command line choose concepts (library names or TOML files); without any, the whole library is read and the
table published. A question counts as answered if the model's greedy answer begins with a right one. ``another name``
and ``two hops`` are the questions whose subject is named indirectly (``audit.attacks.indirect``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.record import publish

if TYPE_CHECKING:
    from audit.models.loading import RunningModel
    from audit.models.opening import OpenedModel
    from concepts.concept import Concept


def main(names: Sequence[str]) -> None:
    """One row a concept; questions that are not answered are listed on stderr."""
    from audit.commands.demo import model_folder
    from audit.models.opening import open_model
    from audit.settings import default_cache
    from concepts.concept import library, load_concept

    opened = open_model(model_folder(default_cache()))
    model = opened.load()
    rows = [row(opened, model, load_concept(name)) for name in names or library()]
    if names:
        print(*rows, sep="\n")
    else:
        answered = sum(row["answered"] >= 10 for row in rows)
        goal = "at least 10 questions that the model answers"
        publish("library", rows, f"{answered} of {len(rows)} concepts with {goal}")


def row(opened: OpenedModel, model: RunningModel, concept: Concept) -> dict[str, Any]:
    """Numbers of questions, of those answered, and the best vector with its Benjamini-Hochberg q-value."""
    from audit.attacks.indirect import FORMS
    from audit.vectors.question_split import answered
    from audit.vectors.search import find_vectors

    avoid = [concept.title, *concept.seeds]
    cells: dict[str, Any] = {"concept": concept.name}
    for kind in ("questions", "two_hop", "neighbours"):
        questions = getattr(concept, kind)
        known = {question.question for question in answered(model, questions, avoid)}
        for question in questions:
            if question.question not in known:
                print(f"{concept.name} {kind}: not answered: {question.question} ({question.answer})", file=sys.stderr)
        cells[kind] = len(questions)
        cells["answered" if kind == "questions" else f"{kind} answered"] = len(known)
    for form, field in FORMS.items():
        asked = [
            question.model_copy(update={"question": getattr(question, field)[0]})
            for question in concept.questions
            if getattr(question, field)
        ]
        cells[form], cells[f"{form} answered"] = len(asked), len(answered(model, asked, avoid))
    result = find_vectors(opened, concept)
    best = result.vectors[0] if result.vectors else None
    return cells | {
        "open": len(concept.open),
        "groups": len(concept.groups),
        "best vector": f"{best.place.layer}.{best.place.neuron}{'-' if best.place.sign < 0 else '+'}" if best else None,
        "q": best.q_value if best else None,
        "writes": " ".join(word.strip() for word in best.tokens[:5]) if best else None,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
