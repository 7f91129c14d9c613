"""Results on disk: listed, drawn again, set side by side, and served to this machine only."""

from __future__ import annotations

import http.client
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.errors import ResultError
from reports import index, server, stored_results
from reports.formatting import decimals
from reports.html import render
from reports.text import render_listing
from tests.reports.test_html import Page
from tests.sample_result import HOSTILE, destroyed, hostile, known, sample, single


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two results of different age, one broken file, and a secret next to them."""
    older = single()
    older.model_copy(update={"run": older.run.model_copy(update={"finished": "2026-01-01T00:00:00+00:00"})}).write(
        tmp_path / "results" / "old" / "result.json"
    )
    sample().write(tmp_path / "results" / "new" / "result.json")
    broken = tmp_path / "results" / "broken" / "result.json"
    broken.parent.mkdir()
    broken.write_text("{")
    os.utime(broken, (0, 0))
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "results"


def test_results_are_listed_newest_first_and_a_broken_one_with_its_reason(folder: Path) -> None:
    rows = stored_results.list_results([folder])
    assert [row.path.parent.name for row in rows] == ["new", "old", "broken"]
    assert rows[0].as_json()["verdicts"] == [
        {"concept": "Italy", "verdict": "hidden"},
        {"concept": "France", "verdict": "inconclusive"},
    ]
    assert "not readable as JSON" in str(rows[2].as_json()["error"])
    shown = render_listing(rows)
    assert "not readable as JSON" in shown
    assert shown.index("new") < shown.index("old")


def test_a_result_named_twice_is_listed_once(folder: Path) -> None:
    assert len(stored_results.list_results([folder, folder / "new", folder / "new" / "result.json"])) == 3


def test_a_place_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="nowhere"):
        stored_results.list_results([tmp_path / "nowhere"])


def test_one_result_is_drawn_as_its_report(folder: Path, tmp_path: Path) -> None:
    stored_results.draw([folder / "new"], tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == render(sample())


def test_several_results_are_drawn_as_an_index_whose_links_lead_to_pages(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "elsewhere" / "index.html"
    stored_results.draw([folder / "new", folder / "old"], output)
    links = Page(output.read_text(encoding="utf-8")).attributes("href")
    pages = {link.split("#")[0] for link in links if "report.html" in link}
    assert len(pages) == 2
    assert all((output.parent / page).is_file() for page in pages)


def test_drawing_a_broken_result_or_an_empty_folder_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="broken"):
        stored_results.draw([folder], tmp_path / "page.html")
    (tmp_path / "empty").mkdir()
    for act in (
        lambda: stored_results.draw([tmp_path / "empty"], tmp_path / "p.html"),
        lambda: stored_results.page_of([tmp_path / "empty"]),
    ):
        with pytest.raises(ResultError, match="empty"):
            act()
    assert not (tmp_path / "page.html").exists()


def test_the_page_of_the_newest_result_is_drawn_where_it_is_missing_or_old(folder: Path) -> None:
    page = stored_results.page_of([folder])
    assert page == folder / "new" / "report.html"
    assert page.read_text(encoding="utf-8") == render(sample())
    page.write_text("kept")
    assert stored_results.page_of([folder]).read_text() == "kept"
    os.utime(page, (0, 0))
    assert stored_results.page_of([folder]).read_text(encoding="utf-8") == render(sample())


# ---- the index


def test_the_index_links_each_report_and_shows_verdicts_and_numbers(tmp_path: Path) -> None:
    index.write(tmp_path / "index.html", {"npo": single(), "needle": destroyed()}, "Italy, two ways.\nAs measured.")
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    links = page.attributes("href")
    assert {"npo/report.html", "needle/report.html#concept-italy", "npo/report.html#concept-italy-association"} <= set(
        links
    )
    for words in ("Hidden", "Destroyed", "As measured.", "6.127", "Italy, two ways."):
        assert words in page.text


def test_the_index_and_the_listing_say_how_the_knowledge_is_hidden(tmp_path: Path) -> None:
    index.write(tmp_path / "index.html", {"npo": known(), "needle": single()}, "")
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.text.count("Hidden, brought back") == 2  # in the table and in the list
    assert "How much is left" in page.text
    left = known().findings[0].residual
    assert left is not None
    assert left.value is not None
    assert decimals(left.value) in page.text
    known().write(tmp_path / "result.json")
    (row,) = stored_results.list_results([tmp_path])
    assert row.as_json()["verdicts"] == [{"concept": "Italy", "verdict": "hidden", "kind": "brought back"}]
    assert "hidden, brought back Italy" in " ".join(render_listing([row]).split())


def test_anchors_of_the_index_exist_in_the_reports(tmp_path: Path) -> None:
    index.write(tmp_path / "index.html", {"one": hostile(), "two": sample()}, "")
    links = Page((tmp_path / "index.html").read_text(encoding="utf-8")).attributes("href")
    anchors = {
        name: set(Page(render(result)).attributes("id")) for name, result in (("one", hostile()), ("two", sample()))
    }
    named = [link.split("/report.html#") for link in links if "#" in link and not link.startswith("#")]
    assert len(named) > 20
    assert [pair for pair in named if pair[1] not in anchors[pair[0]]] == []


def test_hostile_names_cannot_leave_the_index(tmp_path: Path) -> None:
    index.write(tmp_path / "index.html", {name: hostile() for name in HOSTILE if "\ud800" not in name}, HOSTILE[1])
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert {tag for tag, _ in page.elements} & {"img", "iframe", "object"} == set()
    assert [link for link in page.attributes("href") if re.match(r"[a-z]+:|//", link) and link != "data:,"] == []
    assert len(page.scripts) == 1


# ---- the server


@pytest.fixture
def served(folder: Path) -> Iterator[int]:
    with server.bound([folder], 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running.server_address[1]
        running.shutdown()
        thread.join()


def get(port: int, path: str, host: str = "127.0.0.1", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    body = answer.read().decode("utf-8")
    connection.close()
    return answer.status, body


def reports_in(body: str) -> list[str]:
    return sorted(
        {link.split("#")[0] for link in Page(body).attributes("href") if link.split("#")[0].endswith("report.html")}
    )


def test_the_served_index_leads_to_reports_drawn_from_the_results(served: int) -> None:
    status, body = get(served, "/")
    assert status == 200
    assert "not readable as JSON" in body
    pages = [get(served, f"/{link}") for link in reports_in(body)]
    assert len(pages) == 2
    assert (200, render(sample())) in pages


def test_a_changed_result_is_drawn_afresh(served: int, folder: Path) -> None:
    key = server.key_of(folder / "new" / "result.json")
    destroyed().write(folder / "new" / "result.json")
    assert get(served, f"/{key}/report.html")[1] == render(destroyed())
    (folder / "new" / "result.json").write_text("{")
    assert get(served, f"/{key}/report.html")[0] == 422


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/../../../../etc/passwd",
        "/%2e%2e/secret.txt",
        "/{key}/../../secret.txt",
        "/{key}/..%2f..%2fsecret.txt",
        "/{key}//etc/passwd",
        "//etc/passwd",
        "/{key}/",
        "/{key}",
        "/unknown/report.html",
        "/{key}/result.json/../../../secret.txt",
    ],
)
def test_no_address_leads_outside(served: int, folder: Path, path: str) -> None:
    status, body = get(served, path.format(key=server.key_of(folder / "new" / "result.json")))
    assert status == 404
    assert "secret" not in body


def test_a_foreign_host_name_is_refused(served: int) -> None:
    assert get(served, "/", host="rebound.example")[0] == 403
    assert get(served, "/", host="localhost")[0] == 200


def test_only_reading_is_answered(served: int) -> None:
    assert get(served, "/", method="POST")[0] == 501
    assert get(served, "/", method="HEAD") == (200, "")


def test_the_server_listens_on_loopback_only(folder: Path) -> None:
    with server.bound([folder], 0) as running:
        assert running.server_address[0] == "127.0.0.1"


def test_a_taken_port_is_an_error_with_a_way_out(folder: Path) -> None:
    with server.bound([folder], 0) as running, pytest.raises(ResultError, match="--port 0"):
        server.serve([folder], running.server_address[1], announce=lambda address: None)


def test_interrupting_ends_quietly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("socketserver.BaseServer.serve_forever", interrupted)
    announced: list[str] = []
    server.serve([folder], 0, announce=announced.append)
    assert announced[0].startswith("http://127.0.0.1:")
