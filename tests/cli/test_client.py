"""Where the server is found, and what becomes of its answers."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from dujiang.client import (
    Client,
    Connection,
    Problem,
    Unreachable,
    forget_credentials,
    locate,
    persist,
    segment,
    store_credentials,
)
from tests.cli.standin import Answer, Asked, StandIn


def write_server(home: Path, url: str = "http://127.0.0.1:1", token: str = "local") -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "server.json").write_text(json.dumps({"url": url, "pid": 1}))
    (home / "admin.token").write_text(token + "\n")


def test_nothing_tells_where_a_server_is(tmp_path: Path) -> None:
    assert locate({"DUJIANG_HOME": str(tmp_path / "none")}) is None


def test_environment_wins_over_sign_in_wins_over_the_server_of_the_account(tmp_path: Path) -> None:
    environ = {"DUJIANG_HOME": str(tmp_path)}
    write_server(tmp_path)
    found = locate(environ)
    assert found
    assert (found.url, found.token) == ("http://127.0.0.1:1", "local")

    path = store_credentials("https://centre.example/", "mine", environ)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = locate(environ)
    assert found
    assert (found.url, found.token) == ("https://centre.example", "mine")

    found = locate(environ | {"DUJIANG_URL": "http://other.example", "DUJIANG_TOKEN": "given"})
    assert found
    assert (found.url, found.token) == ("http://other.example", "given")
    assert forget_credentials(environ)
    assert not forget_credentials(environ)


def test_a_token_is_shown_to_no_other_server(tmp_path: Path) -> None:
    environ = {"DUJIANG_HOME": str(tmp_path)}
    write_server(tmp_path)
    store_credentials("https://centre.example", "mine", environ)
    for url, token in (
        ("http://evil.example", None),
        ("http://127.0.0.1:1/", "local"),
        ("https://centre.example/", "mine"),
    ):
        found = locate(environ | {"DUJIANG_URL": url})
        assert found
        assert found.token == token
    assert "mine" not in repr(locate(environ))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\xff\xfe"])
def test_a_damaged_file_tells_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.json").write_bytes(content.encode("latin-1"))
    assert locate({"DUJIANG_HOME": str(tmp_path)}) is None


def test_a_listing_is_read_page_after_page(server: StandIn) -> None:
    def page(asked: Asked) -> object:
        start = int(asked.query.get("cursor", ["0"])[0])
        size = min(2, int(asked.query["limit"][0]))
        return {
            "items": [{"n": n} for n in range(start, start + size)],
            "next_cursor": str(start + size) if start < 4 else None,
        }

    server.on("GET /v1/things", page)
    with Client(Connection(server.url, "t")) as client:
        assert [one["n"] for one in client.items("/v1/things", colour=None)] == [0, 1, 2, 3, 4, 5]
        assert [one["n"] for one in client.items("/v1/things", most=3)] == [0, 1, 2]
    assert "colour" not in server.asked[0].query
    assert server.asked[0].headers["authorization"] == "Bearer t"


def test_a_refusal_carries_what_the_server_said(server: StandIn) -> None:
    server.on("POST /v1/jobs", lambda _: server.problem(409, "quota_exceeded", "Too much.", limit=3))
    with Client(Connection(server.url)) as client, pytest.raises(Problem) as caught:
        client.post("/v1/jobs", {})
    assert (caught.value.status, caught.value.name, caught.value.sentence) == (409, "quota_exceeded", "Too much.")
    assert caught.value.facts["limit"] == 3


@pytest.mark.parametrize(
    "answer",
    [Answer("<html>", 502), Answer(None, 500), Answer("[1]", 404, {"Content-Type": "application/json"})],
    ids=["a proxy's page", "no body", "another shape"],
)
def test_a_strange_refusal_is_still_one(server: StandIn, answer: Answer) -> None:
    server.on("GET /v1/x", answer)
    with Client(Connection(server.url)) as client, pytest.raises(Problem) as caught:
        client.get("/v1/x")
    assert caught.value.status == answer.status


def test_what_is_no_json_is_not_this_platform(server: StandIn) -> None:
    server.on("GET /v1/x", Answer("{oops", 200, {"Content-Type": "application/json"}))
    with Client(Connection(server.url)) as client, pytest.raises(Unreachable, match="not this platform"):
        client.get("/v1/x")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://[", "ftp://x", "http://127.0.0.1:99999", ""])
def test_an_address_without_a_server(url: str) -> None:
    with pytest.raises(Unreachable), Client(Connection(url)) as client:
        client.get("/v1/me")


def test_persist_calls_again_until_the_server_is_back(server: StandIn) -> None:
    answers = iter([Answer({}, 503), Answer("cut", cut_after=1), Answer({"n": 1})])
    server.on("GET /v1/x", lambda _: next(answers))
    with Client(Connection(server.url)) as client:
        assert persist(lambda: client.get("/v1/x"), for_s=10) == {"n": 1}


def test_persist_gives_up_at_once_where_nobody_listens() -> None:
    with Client(Connection("http://127.0.0.1:1")) as client, pytest.raises(Unreachable):
        persist(lambda: client.get("/"), for_s=1000, only_if_started=True)


def test_server_sent_events(server: StandIn) -> None:
    text = "retry: 2000\n\n: hello\n\nid: 7\nevent: state\ndata: {\ndata: }\n\ndata: last\n\n"
    server.on("GET /v1/events", Answer(text, 200, {"Content-Type": "text/event-stream"}))
    with Client(Connection(server.url)) as client:
        events = list(client.events("/v1/events", last_id="6"))
    assert [(one.event, one.id, one.data) for one in events] == [("state", "7", "{\n}"), ("message", "7", "last")]
    assert server.asked[0].headers["last-event-id"] == "6"


def test_names_become_one_segment_of_a_path() -> None:
    assert segment("a/b?c#d") == "a%2Fb%3Fc%23d"
    assert "/" not in segment("..")
    assert segment("..") != ".."
