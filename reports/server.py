"""Results as pages on a small server that only this machine can reach."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from audit.errors import ResultError
from reports import html, index
from reports.formatting import shorten
from reports.stored_results import PAGE, RESULT, Row, list_results, result_files

HOST: Final = "127.0.0.1"


def serve(places: Sequence[Path], port: int, announce: Callable[[str], None]) -> None:
    """Serve the results of ``places`` on 127.0.0.1, drawn afresh for each request, until interrupted.

    Raises:
        ResultError: a place that does not exist, or a port that is taken.
    """
    with bound(places, port) as server:
        announce(f"http://{HOST}:{server.server_address[1]}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def bound(places: Sequence[Path], port: int) -> ThreadingHTTPServer:
    """A server on ``port`` (0: any free port) for the results of ``places``, not yet started."""
    result_files(places)

    class Handler(ResultHandler):
        shown = tuple(places)

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise ResultError(f"port {port} cannot be used ({error}).", hint="Pass --port 0 to pick a free one.") from error
    server.daemon_threads = True
    return server


class ResultHandler(BaseHTTPRequestHandler):
    """Answers ``/``, ``/KEY/report.html`` and ``/KEY/result.json``.

    A key names one file of the list; no part of an address becomes a path, so no address leads outside.
    """

    shown: tuple[Path, ...] = ()
    server_version = "unlearning-audit"
    sys_version = ""

    def do_GET(self) -> None:
        status, kind, body = (
            self.answer()
            if self.is_local()
            else _plain(HTTPStatus.FORBIDDEN, "only requests to this machine's own address are answered")
        )
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def is_local(self) -> bool:
        """Whether the request names this machine: another name that resolves here (DNS rebinding) is refused."""
        name = (self.headers.get("Host") or "").rsplit(":", 1)[0].lower()
        return name in (HOST, "localhost")

    def answer(self) -> tuple[HTTPStatus, str, bytes]:
        address = unquote(urlsplit(self.path).path)
        try:
            rows = {key_of(row.path): row for row in list_results(self.shown)}
        except ResultError as error:
            return _plain(HTTPStatus.NOT_FOUND, str(error))
        if address == "/":
            return HTTPStatus.OK, "text/html", _encoded(listing(rows))
        key, _, name = address.removeprefix("/").partition("/")
        row = rows.get(key)
        if row is None or name not in (RESULT, PAGE):
            return _plain(HTTPStatus.NOT_FOUND, "This page does not exist.")
        if row.result is None:
            return _plain(HTTPStatus.UNPROCESSABLE_ENTITY, row.error or "unreadable")
        if name == PAGE:
            return HTTPStatus.OK, "text/html", _encoded(html.render(row.result))
        return HTTPStatus.OK, "application/json", _encoded(row.result.to_json())

    def log_message(self, format: str, *args: Any) -> None:
        """No log."""


def listing(rows: dict[str, Row]) -> str:
    """The index page of all served results."""
    entries = [
        index.Entry(str(row.path.parent), f"{key}/{PAGE}", row.result)
        for key, row in rows.items()
        if row.result is not None
    ]
    broken = [(str(row.path), row.error) for row in rows.values() if row.error is not None]
    return index.render(entries, unreadable=broken)


def key_of(path: Path) -> str:
    """A stable address for a file, as long as the file is not moved."""
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]


def _plain(status: HTTPStatus, message: str) -> tuple[HTTPStatus, str, bytes]:
    return status, "text/plain", _encoded(shorten(message, 600) + "\n")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
