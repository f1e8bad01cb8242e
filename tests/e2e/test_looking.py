"""Explaining from a file and trying out, against the platform as a real process."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from dujiang.scheduling.domain.saved import load
from tests.chaos.process import PlatformProcess, until
from tests.e2e.test_cli import files, platform, refused, resources, running, submit

__all__ = ["files", "platform"]


def test_a_file_explains_as_the_platform_does(platform: PlatformProcess, files: Any, tmp_path: Path) -> None:
    cores = resources(platform)["cores"]["total"] / 1000
    whole = {"cpu": cores, "memory": "32MiB"}
    blocker, waiting = submit(
        platform, files("holder", "sleep 300", resources=whole, time_limit="1h"),
        files("behind", "true", resources=whole, time_limit="10m"),
    )  # fmt: skip
    running(platform, blocker)
    until(lambda: platform.run("explain", waiting, "--json").json["cause"] == "Resources", 30, "it knows why")
    plain, packed = tmp_path / "now.json", tmp_path / "now.json.gz"
    for path in (plain, packed):
        assert platform.run("snapshot", "save", str(path)).code == 0
    load(gzip.decompress(packed.read_bytes()))
    shown = platform.run("snapshot", "show", str(packed), "--json").json
    assert (shown["running"], shown["waiting"], shown["starting"]) == (1, 1, 0)
    live, then = [platform.run("explain", waiting, *more).out.splitlines() for more in ((), ("--snapshot", str(plain)))]
    assert live[1:] == then[1:]
    assert live[0].startswith(f"{waiting} (behind) is PENDING")
    assert then[0].startswith(f"{waiting} is PENDING")
    assert blocker in then[1]
    assert "It is expected to start at" in then[3]
    tried = platform.run("submit", files("third", "true", resources=whole, time_limit="30m"), "--dry-run")
    assert (tried.code, tried.out.splitlines()[0]) == (0, "third would wait: Resources.")
    facts = dict(line.strip().split(None, 1) for line in tried.out.splitlines()[1:])
    assert (facts["position"], "if all runs to its time limit" in facts["starts"]) == ("2", True)
    assert "CNY an hour; " in facts["price"]
    assert "to its time limit of 30m" in facts["price"]
    platform.run("cancel", blocker, waiting)


def test_a_dry_run_submits_nothing(platform: PlatformProcess, files: Any) -> None:
    before = {job["id"] for job in platform.run("ps", "--all", "--json").json}
    one, two = files("one", "true"), files("two", "true", time_limit="1h")
    said = platform.run("submit", one, two, "--dry-run", "--json")
    assert [told["name"] for told in said.json] == ["one", "two"]
    assert all(told["price"]["currency"] == "CNY" for told in said.json)
    assert [told["price"]["total"] is None for told in said.json] == [True, False]
    assert {job["id"] for job in platform.run("ps", "--all", "--json").json} == before
    huge = platform.run("submit", files("huge", "true", resources={"cpu": 100_000}), "--dry-run")
    refused(huge, 2, "the largest possible is")
