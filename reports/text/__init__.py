"""Terminal text: one function for each record that a command prints, 100 columns wide."""

from reports.text.checks import render_check, render_plan, render_verification
from reports.text.demo import render_demo
from reports.text.listing import render_listing
from reports.text.result import render
from reports.text.skill import render_skill
from reports.text.vectors import render_vectors

FILE_ENDINGS = (".txt",)

__all__ = [
    "FILE_ENDINGS",
    "render",
    "render_check",
    "render_demo",
    "render_listing",
    "render_plan",
    "render_skill",
    "render_vectors",
    "render_verification",
]
