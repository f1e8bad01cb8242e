"""Flags of `dujiang submit` that say where and by when."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_flags_stand_over_what_the_file_says(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("run: x\ntime_limit: 1h\nqueue: old\nplacement: {within: rack, cluster: elsewhere}\n")
    code, out, _ = run("submit", str(file), "--check", "--queue", "vision", "--cluster", "here", "--deadline", "2d")
    assert code == 0
    (document,) = json.loads(out)
    assert (document["queue"], document["deadline"]) == ("vision", "2d")
    assert document["placement"] == {"cluster": "here", "within": "rack"}


def test_a_flag_that_means_nothing_is_told(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("run: x\n")
    code, out, err = run("submit", str(file), "--check", "--deadline", "2d")
    assert (code, out) == (2, "")
    assert "deadline: A deadline needs a time_limit" in err
    code, _, err = run("submit", str(file), "--check", "--queue", "Vision!")
    assert (code, "not a queue's name" in err) == (2, True)
