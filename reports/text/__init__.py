"""Terminal text, 100 columns wide: one file a command, and ``result`` for those that end in an audit's result."""

from reports.text.check import render_check
from reports.text.demo import render_demo
from reports.text.find import render_vectors
from reports.text.plan import render_plan
from reports.text.result import render
from reports.text.skill import render_skill
from reports.text.unlearn import render_unlearning
from reports.text.verify import render_verification
from reports.text.view import render_listing

FILE_ENDINGS = (".txt",)

__all__ = [
    "FILE_ENDINGS",
    "render",
    "render_check",
    "render_demo",
    "render_listing",
    "render_plan",
    "render_skill",
    "render_unlearning",
    "render_vectors",
    "render_verification",
]
