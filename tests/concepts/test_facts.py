"""What a question is about: its own subject, a name, or a proper noun; and nothing where it names nothing."""

from __future__ import annotations

import pytest

from concepts.facts import subject_in

NAMES = ("Italy", "Rome", "volcano", "old volcano")


@pytest.mark.parametrize(
    ("text", "known", "subject"),
    [
        ("What is the symbol for gold?", "Gold", "gold"),
        ("Who wrote Faust?", "wrote Faust", "wrote Faust"),
        ("What is golden?", "gold", ""),
        ("What is the capital of Peru?", "What is the capital of Peru?", "Peru"),
        ("Italy belongs to which continent?", "", "Italy"),
        ("Which old volcano is it?", "", "old volcano"),
        ("Which volcano is near Naples?", "", "Naples"),
        ("What did Basil Mahfouz Al-Kuwaiti's father do?", "", "Basil Mahfouz Al-Kuwaiti"),
        ("Who ruled the House of the Dragon?", "", "House of the Dragon"),
        ("What was it? Which one? And: When?", "", ""),
        ("Who is it?", "", ""),
    ],
)
def test_what_a_question_is_about_is_found_in_its_own_words(text: str, known: str, subject: str) -> None:
    assert subject_in(text, known, NAMES) == subject
    assert subject in text
