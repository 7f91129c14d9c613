"""The verdict on a topic, from what the models know of its facts."""

from audit.verdict.case import Case
from audit.verdict.rules import judge

__all__ = ["Case", "judge"]
