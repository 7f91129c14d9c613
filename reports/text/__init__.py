"""Terminal text: one function for each record that a command prints, 100 columns wide."""

from reports.text.checks import render_check, render_plan, render_verification
from reports.text.demo import render_demo
from reports.text.listing import render_listing
from reports.text.result import render
from reports.text.skill import render_skill
from reports.text.vectors import render_vectors

__all__ = [
    "render",
    "render_check",
    "render_demo",
    "render_listing",
    "render_plan",
    "render_skill",
    "render_vectors",
    "render_verification",
]
