"""From a pair of checkpoints and some concepts to what the metrics read, each model loaded and run once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audit.errors import ConceptError, ModelError
from audit.pair import ModelPair
from audit.progress import Progress
from audit.settings import Settings
from audit.subjects import Subjects, TracedVectors
from concepts.concept import Concept, ConceptFileError, load_concept

CONTROLS_PER_VECTOR = 2
VECTORS = 20
"""How many vectors of a concept are followed from base to unlearned."""
SIGNIFICANT = 0.05
"""Benjamini-Hochberg level below which a vector counts as the concept's."""


def load_concepts(names: Sequence[str]) -> list[Concept]:
    """The concepts named, each once.

    Raises:
        ConceptError: unknown, unreadable, or given twice.
    """
    concepts = []
    for name in names:
        try:
            concepts.append(load_concept(name))
        except ConceptFileError as error:
            raise ConceptError(str(error)) from error
    names_seen = [concept.name for concept in concepts]
    for name in names_seen:
        if names_seen.count(name) > 1:
            raise ConceptError(f"concept {name!r} is given twice.", hint="Name each concept once.")
    return concepts
