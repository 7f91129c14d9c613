"""Loads the topics of a request from library names and files."""

from __future__ import annotations

from audit.questions.skill_queries import load_skills
from audit.questions.topics import Topic, check_unique_names, load_concepts
from audit.request import Request
from audit.settings import Settings


def load_topics(request: Request, settings: Settings) -> list[Topic]:
    """The concepts of ``request``, then its skills.

    Raises:
        ConceptError: a topic that cannot be used, or two topics with the same name.
    """
    topics: list[Topic] = [
        *load_concepts(request.concepts, request.translations),
        *load_skills(request.skills, settings.seed, settings.limit, settings.run_code),
    ]
    check_unique_names(topics)
    return topics
