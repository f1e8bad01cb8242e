"""The engine as an ordinary user: it may run, stop and see its jobs, and close nodes to itself alone."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey, EngineRefused, Phase
from dujiang.engines.slurm.archive import archive
from dujiang.engines.slurm.asking import comment
from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.engines.slurm.folder import WorkDir
from tests.contract.harness import Exits, Waits
from tests.slurm.as_user import as_user
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import scratch
from tests.slurm.harness import SlurmHarness

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="only root can become another user: the other tests are ordinary then"
    ),
]
USER = "nobody"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of that user."""
    archive()  # read as long as it may be
    with scratch() as folder:
        user = pwd.getpwnam(USER)
        os.chown(folder, user.pw_uid, user.pw_gid)
        yield folder


def harness_in(folder: Path, cluster: Cluster, **settings: object) -> SlurmHarness:
    return SlurmHarness(folder, cluster, allow_root=False, python="/usr/bin/python3", **settings)


def test_an_ordinary_user_runs_stops_and_closes_for_itself(folder: Path, cluster: Cluster) -> None:
    async def live() -> dict[str, Any]:
        harness = harness_in(folder, cluster)
        first = await harness.submit(Exits(3))
        ended = await harness.ended(first)
        second = await harness.submit(Waits(), job="job_b")
        await harness.ready(second)
        who = cluster.client("squeue", "-h", "-o", "%u %j")
        await harness.engine.cancel(second, grace_s=1.0)
        stopped = await harness.ended(second)
        await harness.engine.cordon("n2", "ours alone")
        facts = {one.name: one for one in await harness.engine.inventory()}["n2"]
        refused = ""
        try:
            launch = harness.launch(Exits(0), job="job_c")
            rank = launch.ranks[0]
            object.__setattr__(launch, "ranks", (type(rank)(0, "n2", rank.cpu_milli, rank.memory_bytes),))
            await harness.engine.submit(launch)
        except EngineRefused as error:
            refused = error.sentence
        await harness.engine.uncordon("n2")
        opened = {one.name: one for one in await harness.engine.inventory()}["n2"]
        await harness.engine.close()
        return {
            "code": ended.exit_code, "who": who.split(), "stopped": str(stopped.end), "cordoned": facts.cordoned,
            "reason": facts.reason, "refused": refused, "opened": not opened.cordoned,
        }  # fmt: skip

    told = as_user(USER, live)
    assert (told["code"], told["who"], told["stopped"]) == (3, [USER, "dj-job_b.1"], "Stopped")
    assert (told["cordoned"], told["reason"], told["opened"]) == (True, "ours alone", True)
    assert "closed to new work: ours alone" in told["refused"]
    assert cluster.states()["n2"] == "idle"  # Slurm's own state was never another


def test_an_ordinary_user_with_a_token_of_its_own(folder: Path, cluster: Cluster, rest: str) -> None:
    token = folder / "token"
    token.write_text(cluster.client("scontrol", "token", f"username={USER}", "lifespan=600"))
    token.chmod(0o600)
    user = pwd.getpwnam(USER)
    os.chown(token, user.pw_uid, user.pw_gid)

    async def live() -> dict[str, Any]:
        harness = harness_in(
            folder, cluster, rest_url=rest, rest_token_file=str(token), rest_user=USER, commands=str(folder / "none")
        )
        key = await harness.submit(Waits(4))
        await harness.ready(key)
        who = cluster.client("squeue", "-h", "-o", "%u")
        phase = (await harness.engine.observe([key]))[key].phase
        harness.release()
        ended = await harness.ended(key)
        await harness.engine.close()
        return {"who": who.strip(), "phase": str(phase), "code": ended.exit_code}

    assert as_user(USER, live) == {"who": USER, "phase": str(Phase.RUNNING), "code": 4}


def test_jobs_of_another_user_are_not_taken_for_ours(folder: Path, cluster: Cluster) -> None:
    """A comment that names our attempt is not enough: what is not this user's is not adopted."""
    key = AttemptKey("job_x", 1)
    mark = WorkDir(str(folder / "engine")).mark
    made = ("sbatch", "--parsable", f"--comment={comment(mark, key)}", "-o", "/dev/null", "--wrap", "sleep 60")
    number = cluster.client(*made).strip()

    async def live() -> list[str]:
        harness = harness_in(folder, cluster)
        assert isinstance(harness.engine, SlurmEngine)
        return list(await harness.engine._slurm.jobs(mark))

    assert as_user(USER, live) == []
    assert cluster.job_state(number) in ("RUNNING", "PENDING")
    cluster.client("scancel", number)
