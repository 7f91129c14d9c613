"""SQuAD (Rajpurkar et al. 2016) and XQuAD: the questions of one JSON document, without their contexts."""

from __future__ import annotations

from pathlib import Path

from concepts.files import ConceptFileError, read_records
from concepts.readers.skills._json import first_entry
from concepts.skill import Skill, parse_skill

TITLE = "SQuAD"
LAYOUT = "one JSON document with data"
PREFERRED_TO: frozenset[str] = frozenset()


def recognises(path: Path) -> bool:
    return "data" in first_entry(path) and len(read_records(path)) == 1


def read(path: Path) -> Skill:
    ((_, document),) = read_records(path)
    queries = []
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                for item in paragraph["qas"]:
                    answers = [answer["text"] for answer in item["answers"]]
                    first = answers[0] if answers else None
                    queries.append({"prompt": item["question"], "answer": first, "accept": answers[1:]})
    except (KeyError, TypeError) as error:
        raise ConceptFileError(
            f"query {len(queries)} does not have the layout of SQuAD ({error!r}).", where=str(path)
        ) from error
    return parse_skill({"checker": "text", "queries": queries}, path)
