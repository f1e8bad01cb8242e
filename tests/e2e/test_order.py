"""A chain with an array and a schedule on the real local engine, by the commands that people use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.process import PlatformProcess, until

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    made = PlatformProcess(tmp_path_factory.mktemp("order") / "home")
    try:
        made.start()
        until(lambda: any(one["state"] == "READY" for one in made.run("nodes", "--json").json), 30, "the node is ready")
        yield made
        proven = made.run("verify", "--json")
        assert (proven.code, proven.json["holds"]) == (0, True), proven.out
        assert made.stop() == 0
        assert made.tracebacks() == []
    finally:
        made.kill()


def test_the_example_of_a_chain_runs_in_its_order(platform: PlatformProcess) -> None:
    said = platform.run("submit", "--wait", "--json", str(EXAMPLES / "chain.yaml"))
    assert said.code == 0, said.err
    prepare, shards, merge, tidy = said.json
    assert [one["state"] for one in said.json] == ["COMPLETED"] * 4
    assert shards["states"] == {"COMPLETED": 4}
    tasks = platform.run("ps", "--array", shards["id"], "--json").json
    assert sorted(task["array_index"] for task in tasks) == [0, 1, 2, 3]
    assert all(task["started_at"] >= prepare["finished_at"] for task in tasks)
    assert merge["started_at"] >= max(task["finished_at"] for task in tasks)
    assert tidy["started_at"] >= merge["finished_at"]
    begun = sorted((task["started_at"], task["finished_at"]) for task in tasks)
    for number, (start, _) in enumerate(begun):
        assert sum(end > start for _, end in begun[:number]) <= 1, "two at a time"
    assert platform.run("logs", f"{shards['id']}[2]").out == "shard 2 of 4\n"
    assert "4 COMPLETED" in platform.run("ps", "--all").out


def test_a_chain_that_breaks_ends_and_says_why(platform: PlatformProcess, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(
        "- {name: breaks, run: exit 3, resources: {cpu: 0.1, memory: 64MiB}}\n"
        "- {name: never, run: 'true', after: [breaks]}\n"
        "- {name: mends, run: echo mended, after: ['breaks:notok'], resources: {cpu: 0.1, memory: 64MiB}}\n"
    )
    said = platform.run("submit", "--wait", "--json", str(file))
    assert said.code == 3
    breaks, never, mends = said.json
    assert [one["state"] for one in said.json] == ["FAILED", "CANCELLED", "COMPLETED"]
    explained = platform.run("explain", never["id"]).out
    assert "DependencyNeverSatisfied" in explained
    assert breaks["id"] in explained
    assert platform.run("logs", mends["id"]).out == "mended\n"


def test_a_schedule_runs_by_hand_and_shows_it(platform: PlatformProcess) -> None:
    hello = str(EXAMPLES / "hello.yaml")
    made = platform.run("schedule", "create", "yearly", "--cron", "0 3 1 1 *", "--time-zone", "Asia/Shanghai", hello)
    assert made.code == 0, made.err
    run = platform.run("schedule", "run-now", "yearly", "--json").json
    until(lambda: platform.run("show", run["work_id"], "--json").json["state"] == "COMPLETED", 60, "it has run")
    (shown,) = platform.run("schedule", "show", "yearly", "--json").json["runs"]
    assert (shown["outcome"], shown["work_id"], shown["by_hand"]) == ("submitted", run["work_id"], True)
    refused = platform.run("schedule", "create", "odd", "--cron", "every night", hello)
    assert (refused.code, "0 3 * * *" in refused.err) == (2, True)
    assert platform.run("schedule", "delete", "yearly").code == 0
