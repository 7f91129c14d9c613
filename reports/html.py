"""The report: one HTML file that makes no network request and is complete without JavaScript.

Every value printed by a template passes ``visible`` and then HTML escaping, unless it is ``Markup``: charts and the
bodies of tables, which escape their own text, and the assets made here. The content policy names the one style and the
one script by hash, so that nothing else runs or loads even if it were injected.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from audit.result import AuditResult
from reports.formatting import json_visible, visible
from reports.page import page

FILE_ENDINGS = (".html", ".htm")
TEMPLATES = Path(__file__).parent / "templates"
READABLE = 300_000
"""Characters of result up to which it is embedded as readable JSON; a longer one is compressed."""


def render(result: AuditResult) -> str:
    """The whole page. Equal results give equal pages; text that UTF-8 cannot encode is shown as escapes."""
    return fill("report.html", page=page(result), embedded=embed(result))


@dataclass(frozen=True)
class Embedded:
    """The machine-readable copy inside the page, and the digests that verify it.

    Attributes:
        content: safe inside a script element: JSON, or base64 of its zlib stream.
        encoding: ``"json"`` or ``"deflate"``.
        digest: SHA-256 of the embedded JSON (uncompressed), which the page's script computes again.
        file_digest: SHA-256 of ``result.json`` as the tool writes it.
    """

    content: Markup
    encoding: str
    digest: str
    file_digest: str
    size: int


def embed(result: AuditResult) -> Embedded:
    """``result`` as JSON that no HTML parser can misread."""
    document = result.to_json()
    as_in_file = document.encode("utf-8", "backslashreplace")
    safe = json_visible(document)
    data = safe.encode("utf-8")
    compressed = len(safe) > READABLE
    content = base64.b64encode(zlib.compress(data, 9)).decode("ascii") if compressed else safe
    return Embedded(
        content=Markup(content),
        encoding="deflate" if compressed else "json",
        digest=hashlib.sha256(data).hexdigest(),
        file_digest=hashlib.sha256(as_in_file).hexdigest(),
        size=len(data),
    )


def fill(template: str, **values: Any) -> str:
    """The template rendered with ``values``, the shared style and script."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """Autoescape is on for every template, and undefined names are errors."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = asset("style.css"), asset("report.js")
    templates.globals.update(
        style=Markup(style),
        script=Markup(script),
        policy=(
            "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
            f"style-src '{csp_hash(style)}'; script-src '{csp_hash(script)}'"
        ),
    )
    return templates


def _printable(value: Any) -> Any:
    """Text with hidden characters shown; markup made by this package is left unchanged."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def csp_hash(content: str) -> str:
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
