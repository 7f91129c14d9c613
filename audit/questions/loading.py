"""The topics of a request, from library names and files."""

from __future__ import annotations

from audit.questions.skill_queries import load_skills
from audit.questions.topics import Topic, load_concepts, refuse_duplicates
from audit.request import Request
from audit.settings import Settings


def load_topics(request: Request, settings: Settings) -> list[Topic]:
    """The concepts and then the skills of ``request``, each once.

    Raises:
        ConceptError: one that cannot be used, or two of one name.
    """
    topics: list[Topic] = [
        *load_concepts(request.concepts, request.translations),
        *load_skills(request.skills, settings.seed, settings.limit, settings.run_code),
    ]
    refuse_duplicates(topics)
    return topics
