"""How listings look on a terminal: words stay whole, sentences stand under the table."""

from __future__ import annotations

import io

import pytest

from dujiang.cli.output import Column, col, listing, nodes_of

ID, WHY = (
    "job_01m8b84r2n050c3jzvrjv7395y",
    "Nothing answers at https://10.0.0.1:6443: see whether its API server is up.",
)
ROWS = [
    {"id": ID, "state": "COMPLETED", "asks_for": "3 x 2 GPU, 2 cores, 1GiB", "submitted": "23s ago", "why": WHY},
    {"id": ID, "state": "NODE_FAIL", "asks_for": "1 core, 256MiB", "submitted": "23s ago", "why": None},
]
COLUMNS = (
    col("ID"), col("STATE"), col("ASKS FOR"), col("SUBMITTED"), Column("WHY", lambda row: row["why"], below=True)
)  # fmt: skip


class Terminal(io.StringIO):
    """Standard output that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [200, 80, 66, 40])
def test_a_terminal_keeps_words_whole(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    listing(ROWS, COLUMNS, as_json=False, empty="")
    text = shown.getvalue()
    assert [text.count(word) for word in ("COMPLETED", "NODE_FAIL", "SUBMITTED", ID)] == [1, 1, 1, 3], text
    table, beneath = text.split(f"{ID}: ")
    assert " ".join(beneath.split()) == WHY, "once: the other row has none"
    assert "WHY" not in table


def test_a_pipe_gets_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    listing(ROWS, COLUMNS, as_json=False, empty="")
    titles, first, second = capsys.readouterr().out.splitlines()
    assert titles.split("  ")[-1] == "WHY"
    assert first.endswith(WHY)
    assert second.endswith("-")


def test_a_row_is_one_line_whatever_its_words_hold(capsys: pytest.CaptureFixture[str]) -> None:
    listing([{"id": "n1", "reason": "new\ndriver\x1b[31m"}], (col("ID"), col("REASON")), as_json=False, empty="")
    assert capsys.readouterr().out.splitlines()[1:] == ["n1  new driver\\x1b[31m"]


@pytest.mark.parametrize(
    ("attempt", "shown"),
    [
        ({"node": "n1", "nodes": ["n1", "n1"]}, "n1"),
        ({"node": "n1", "nodes": ["n1", "n2", "n3", "n2"]}, "n1 +2"),
        ({"node": "n1"}, "n1"),
        ({"node": "", "nodes": []}, None),
    ],
)
def test_where_an_attempt_runs(attempt: dict[str, object], shown: str | None) -> None:
    assert nodes_of(attempt) == shown
