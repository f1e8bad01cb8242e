"""Jobs of two projects as two users, under a platform that is a third: none of them can use another."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey, EngineRefused, Launch, Phase
from dujiang.engines.slurm.archive import archive
from tests.chaos.process import PlatformProcess, until
from tests.contract.engine_contract import EngineContract
from tests.contract.process_contract import ProcessContract
from tests.models.serving.nets import mlp
from tests.slurm.as_user import as_user
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import scratch
from tests.slurm.harness import SlurmHarness
from tests.slurm.people import ALICE, BOB, PLATFORM, STRANGER, people
from tests.telemetry.test_eventfiles import Writer, _event

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make users"),
]
RUN_AS = {"vision": ALICE, "speech": BOB}
SECRET = "s3cr3t-of-the-job"
LEAVES = "cd $DUJIANG_OUTPUT_DIR; echo model > model.txt; umask 077; echo hidden > closed"


@pytest.fixture(scope="module", autouse=True)
def users(cluster: Cluster) -> Iterator[None]:
    archive()  # read as long as it may be
    with people(cluster.conf):
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the platform's user, which everybody may enter."""
    with scratch() as folder:
        user = pwd.getpwnam(PLATFORM)
        os.chown(folder, user.pw_uid, user.pw_gid)
        yield folder


def harness_in(folder: Path, cluster: Cluster, **settings: object) -> SlurmHarness:
    return SlurmHarness(
        folder, cluster, **{"allow_root": False, "python": "/usr/bin/python3", "run_as": RUN_AS, **settings}
    )


def asking(harness: SlurmHarness, text: str, project: str = "vision", **more: Any) -> Launch:
    return harness.launch_text(text, project=project, **more)


def placed(launch: Launch, *nodes: str) -> Launch:
    """Return a launch with its ranks on these nodes."""
    ranks = tuple(replace(rank, node=node) for rank, node in zip(launch.ranks, nodes, strict=True))
    return replace(launch, ranks=ranks)


async def ran(harness: SlurmHarness, launch: Launch) -> dict[str, Any]:
    """Run a launch to its end; return how it ended and what it printed."""
    await harness.engine.submit(launch)
    seen = await harness.ended(launch.key)
    printed = (await harness.printed(launch.key)).decode()
    return {"end": str(seen.end), "code": seen.exit_code, "printed": printed, "dir": seen.output_dir,
            "evidence": [each.line for each in seen.evidence]}  # fmt: skip


def test_projects_run_as_their_users_and_see_nothing_of_each_other(folder: Path, cluster: Cluster) -> None:
    async def live() -> dict[str, Any]:
        harness = harness_in(folder, cluster)
        told: dict[str, Any] = {}
        for job, project in (("job_a", "vision"), ("job_b", "speech")):
            text = f"id -un; umask; pwd; echo $TOKEN; echo {job} > mine; echo on $SLURMD_NODENAME; {LEAVES}"
            told[project] = await ran(harness, asking(harness, text, project, job=job, secrets={"TOKEN": SECRET}))
        looks = f"cat {told['speech']['printed'].split()[2]}/mine || ls {folder}/engine/runs || exit 7"
        told["looks"] = await ran(harness, asking(harness, looks, job="job_c"))
        told["paths"] = [f"{at}/{name}" for at, _, names in os.walk(folder / "engine") for name in names]
        key = AttemptKey("job_a", 1)
        await harness.engine.forget(key)
        told["left"] = [one.path for one in await harness.engine.outputs(key)]
        told["model"] = (await harness.left(key, "model.txt")).decode()
        told["closed"] = (await harness.why_not(key, "closed")).__name__
        told["forgotten"] = key in await harness.engine.attempts()
        told["again"] = (await harness.printed(key)).decode()
        await harness.engine.submit(asking(harness, "echo twice"))  # a forgotten attempt never starts again
        told["phase"] = (await harness.engine.observe([key])) == {}
        await harness.engine.close()
        return told

    told = as_user(PLATFORM, live)
    for project, user in RUN_AS.items():
        lines = told[project]["printed"].split()
        assert (told[project]["code"], lines[0], lines[3]) == (0, user, SECRET)
        assert os.stat(lines[2]).st_uid == pwd.getpwnam(user).pw_uid
    looks = told["looks"]["printed"]
    assert told["looks"]["code"] == 7
    assert looks.count("Permission denied") == 2, looks
    assert (told["forgotten"], told["phase"]) == (False, True)
    assert told["again"] == told["vision"]["printed"]
    assert (told["left"], told["model"], told["closed"]) == (["closed", "model.txt"], "model\n", "OutputRefused")
    assert not any(path.endswith("/half") for path in told["paths"])
    assert SECRET not in "".join(
        _text(path) for path in folder.rglob("*") if path.is_file() and "output-" not in path.name
    )


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def test_a_stop_reaches_a_job_of_another_user(folder: Path, cluster: Cluster) -> None:
    async def live() -> dict[str, Any]:
        harness = harness_in(folder, cluster)
        await harness.engine.submit(asking(harness, "trap 'echo saved; exit 5' USR2; echo ready; sleep 600 & wait"))
        key = AttemptKey("job_a", 1)
        await harness.ready(key)
        who = cluster.client("squeue", "-h", "-u", ALICE, "-o", "%u %j").split()
        phase = (await harness.engine.observe([key]))[key].phase
        await harness.restart()
        await harness.engine.signal(key, 12)
        first = await harness.ended(key)
        await harness.engine.submit(asking(harness, "echo ready; sleep 600", job="job_b"))
        await harness.ready(AttemptKey("job_b", 1))
        await harness.engine.cancel(AttemptKey("job_b", 1), grace_s=0.5)
        second = await harness.ended(AttemptKey("job_b", 1))
        waits = placed(asking(harness, "echo never", job="job_c"), "n2")
        await harness.engine.submit(waits)
        await harness.engine.cancel(waits.key)
        third = await harness.ended(waits.key)
        left = cluster.client("squeue", "-h", "-u", f"{ALICE},{BOB}", "-t", "PENDING,RUNNING")
        await harness.engine.close()
        return {
            "who": who, "phase": str(phase), "code": first.exit_code, "left": left,
            "stops": [str(second.end), str(third.end)], "printed": bool(await harness.printed(waits.key)),
        }  # fmt: skip

    words = ("sbatch", "--parsable", "-J", "holds", "-w", "n2", "--exclusive", "-o", "/dev/null", "-D", "/")
    number = cluster.client(*words, "--wrap", "sleep 300").strip()
    try:
        cluster.wait("the holder", lambda: cluster.job_state(number) == "RUNNING")
        told = as_user(PLATFORM, live)
    finally:
        cluster.client("scancel", number)
    assert told == {
        "who": [ALICE, "dj-job_a.1"], "phase": str(Phase.RUNNING), "code": 5,
        "left": "", "stops": ["Stopped", "Stopped"], "printed": False,
    }  # fmt: skip


PLANTS = """\
own=$(dirname $DUJIANG_OUTPUT_DIR)
for each in started end use output-1.log; do rm -rf $own/$each $own/$each.json; done
ln -s {target} $own/end.json
ln -s {target} $own/output-1.log
ln -s {folder}/engine/attempts $own/use
mv $own/output-0.log $own/kept
{zero}
ln $own/kept $own/started.json
"""


@pytest.mark.parametrize(
    "zero",
    [
        "ln -s {target} $own/output-0.log",
        "mkfifo $own/output-0.log",
        "mkdir $own/output-0.log",
        "rm -rf $own; ln -s {folder} $own",
    ],
)
def test_what_a_job_plants_is_neither_read_nor_written(folder: Path, cluster: Cluster, zero: str) -> None:
    async def live() -> dict[str, Any]:
        target = folder / "private"
        target.write_text(json.dumps({"end": "Exited", "exit_code": 0, "secret": "of the platform"}))
        target.chmod(0o600)
        harness = harness_in(folder, cluster)
        text = PLANTS.replace("{zero}", zero).replace("{target}", str(target)).replace("{folder}", str(folder))
        told = await ran(harness, asking(harness, text))
        key = AttemptKey("job_a", 1)
        other = (await harness.printed(key, rank=1)).decode()
        await harness.engine.usage([key])
        await harness.engine.forget(key)
        left = await harness.engine.attempts()
        await harness.engine.close()
        return {**told, "other": other, "target": target.read_text(), "left": len(left)}

    told = as_user(PLATFORM, live)
    assert "of the platform" not in json.dumps([told["printed"], told["other"], told["evidence"]])
    assert (told["printed"], told["other"], told["left"], told["dir"]) == ("", "", 0, "")
    assert "of the platform" in told["target"]
    # A job that takes its whole folder away before anybody looked has left no trace that it ever began.
    assert told["end"] in ("Exited", "Lost", *(("LaunchFailed",) if "rm -rf" in zero else ()))


FORGES = """\
own=$(dirname $DUJIANG_OUTPUT_DIR)
rm -f $own/started.json $own/claim.json
printf '%s' '{started}' > $own/started.json
printf '%s' '{end}' > $own/end.json
echo ready
until [ -e {folder}/released ]; do sleep 0.1; done
"""


@pytest.mark.parametrize(
    "end",
    [
        {"end": "Exited", "exit_code": 0, "signal": None, "rank": None, "at": 1, "evidence": [], "facts": {}},
        {"end": "Nonsense", "exit_code": 1e300, "signal": "x", "rank": -4, "at": 9**30, "evidence": {}, "facts": 7},
        [[[["deep"]]]],
    ],
)
def test_a_forged_end_is_no_end_as_long_as_the_job_is_there(folder: Path, cluster: Cluster, end: object) -> None:
    async def live() -> dict[str, Any]:
        harness = harness_in(folder, cluster)
        forged = {"at": 1, "ports": [22, 5432, "x", 70000], "host": "127.0.0.99", "node": "elsewhere", "job": "1; rm"}
        text = FORGES.replace("{started}", json.dumps(forged)).replace("{end}", json.dumps(end))
        launch = asking(harness, text.replace("{folder}", str(folder)), ports=1)
        await harness.engine.submit(launch)
        await harness.ready(launch.key)
        await harness.clock.sleep(1.5)
        seen = (await harness.engine.observe([launch.key]))[launch.key]
        await harness.engine.cancel(launch.key, grace_s=0.5)  # what claims to be over is stopped all the same
        ended = await harness.ended(launch.key)
        left = cluster.client("squeue", "-h", "-u", ALICE, "-t", "PENDING,RUNNING")
        await harness.engine.close()
        assert seen.started_at is not None
        assert ended.finished_at is not None
        age_s = harness.clock.now().timestamp() - seen.started_at.timestamp()
        return {"phase": str(seen.phase), "host": seen.host, "ports": seen.ports, "node": seen.node, "age": age_s,
                "lasted": ended.finished_at.timestamp() - seen.started_at.timestamp(), "left": left}  # fmt: skip

    told = as_user(PLATFORM, live)
    assert (told["phase"], told["host"], told["ports"]) == (str(Phase.RUNNING), "127.0.0.1", [5432])
    assert (told["node"], told["left"]) == ("n1", "")
    assert 0 <= told["age"] < 60
    assert told["lasted"] >= 1.0


def test_a_comment_of_another_user_is_not_taken_for_the_job(folder: Path, cluster: Cluster) -> None:
    """Whoever knows the name of an attempt may write it on a job: that is not the attempt's."""

    async def live() -> dict[str, Any]:
        harness = harness_in(folder, cluster)
        mark = harness.engine._work.mark
        await harness.engine.submit(asking(harness, "echo ready; sleep 300"))
        await harness.ready(AttemptKey("job_a", 1))
        jobs = await harness.engine._slurm.jobs(mark)
        return {"mark": mark, "jobs": {key: job.number for key, job in jobs.items()}}

    told = as_user(PLATFORM, live)
    words = [
        "--parsable", f"--comment=dujiang:{told['mark']}:job_a.1", "-o", "/dev/null", "-D", "/", "--wrap", "sleep 60",
    ]  # fmt: skip
    number = _as(cluster, BOB, "sbatch", *words)

    async def jobs() -> dict[str, str]:
        harness = harness_in(folder, cluster)
        found = await harness.engine._slurm.jobs(told["mark"])
        return {key: job.number for key, job in found.items()}

    assert as_user(PLATFORM, jobs) == told["jobs"]
    lines = f"x\n{number}|RUNNING|{ALICE}|dujiang:{told['mark']}:job_a.1"  # a job of Alice's, in Bob's comment
    _as(cluster, BOB, "scontrol", "update", f"JobId={number}", f"Comment={lines}")
    own = told["jobs"]["job_a.1"]
    _as(cluster, ALICE, "scontrol", "update", f"JobId={own}", "Comment=x JobState=COMPLETED ExitCode=0:0")

    async def look() -> dict[str, str]:
        harness = harness_in(folder, cluster)
        jobs = await harness.engine._slurm.jobs(told["mark"])
        assert jobs == {}
        seen = (await harness.engine.observe([AttemptKey("job_a", 1)]))[AttemptKey("job_a", 1)]
        state = (await harness.engine._slurm.job(own)).state
        await harness.engine.cancel(AttemptKey("job_a", 1), grace_s=0.0)
        await harness.ended(AttemptKey("job_a", 1))
        await harness.engine.close()
        return {"phase": str(seen.phase), "state": state}

    assert as_user(PLATFORM, look) == {"phase": "RUNNING", "state": "RUNNING"}
    assert cluster.job_state(number) in ("PENDING", "RUNNING")
    cluster.client("scancel", number)


def _as(cluster: Cluster, user: str, *words: str) -> str:
    async def do() -> str:
        return cluster.client(*words).strip()

    return str(as_user(user, do))


@pytest.mark.parametrize(
    ("run_as", "told"),
    [
        ({"vision": STRANGER}, "may not submit as user 'djtother'.*sudoers"),
        ({"vision": "nosuchuser"}, "none of that name here"),
        ({"speech": BOB}, "no user is set .* for project 'vision'"),
        ({"*": "root"}, "names root"),
        ({"*": "#0"}, "no name of a user"),
        ({"*": "-x"}, "no name of a user"),
        ({"*": PLATFORM}, "platform's own user"),
    ],
)
def test_who_may_not_be_is_refused(folder: Path, cluster: Cluster, run_as: dict[str, str], told: str) -> None:
    async def live() -> dict[str, Any]:
        harness = harness_in(folder, cluster, run_as=run_as)
        with pytest.raises(EngineRefused, match=told):
            await harness.engine.submit(asking(harness, "true", secrets={"TOKEN": SECRET}))
        left = await harness.engine.attempts()
        await harness.engine.close()
        # With the right user, the same attempt runs.
        right = harness_in(folder, cluster, run_as={"*": ALICE})
        return {"left": len(left), **await ran(right, asking(right, "id -un"))}

    said = as_user(PLATFORM, live)
    assert (said["left"], said["printed"]) == (0, f"{ALICE}\n")


@pytest.mark.parametrize(("mode", "told"), [(0o777, "writable by nobody else"), (0o700, "cannot enter")])
def test_a_work_folder_that_cannot_be_shared_is_refused(folder: Path, cluster: Cluster, mode: int, told: str) -> None:
    async def live() -> bool:
        harness = harness_in(folder, cluster)
        (folder / "engine").mkdir()
        (folder / "engine").chmod(mode)
        with pytest.raises(EngineRefused, match=told):
            await harness.engine.submit(asking(harness, "true"))
        return True

    assert as_user(PLATFORM, live)


def test_over_rest_a_token_says_who(folder: Path, cluster: Cluster, rest: str) -> None:
    """With the cluster's key, or a token of root; one of an ordinary user may be nobody else."""
    user = pwd.getpwnam(PLATFORM)
    for name, text in (
        ("key", cluster.jwt_key.read_bytes()),
        ("token", cluster.client("scontrol", "token", f"username={PLATFORM}", "lifespan=600").encode()),
        ("strong", cluster.client("scontrol", "token", "username=root", "lifespan=600").encode()),
    ):
        (folder / name).write_bytes(text)
        (folder / name).chmod(0o600)
        os.chown(folder / name, user.pw_uid, user.pw_gid)

    async def live() -> dict[str, Any]:
        none = {"rest_url": rest, "commands": str(folder / "none")}
        harness = harness_in(folder, cluster, rest_key_file=str(folder / "key"), **none)
        told = {
            project: await ran(harness, asking(harness, "id -un; exit 3", project, job=f"job_{project}"))
            for project in RUN_AS
        }
        await harness.engine.submit(asking(harness, "echo ready; sleep 600", job="job_b"))
        await harness.ready(AttemptKey("job_b", 1))
        await harness.engine.cancel(AttemptKey("job_b", 1), grace_s=0.5)
        stopped = await harness.ended(AttemptKey("job_b", 1))
        strong = harness_in(folder, cluster, rest_token_file=str(folder / "strong"), **none)
        told["strong"] = await ran(strong, asking(strong, "id -un", job="job_d"))
        weak = harness_in(folder, cluster, rest_token_file=str(folder / "token"), **none)
        said = ""
        try:
            said = str(await ran(weak, asking(weak, "id -un", job="job_c")))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        await harness.engine.close()
        return {**told, "stopped": str(stopped.end), "weak": said}

    told = as_user(PLATFORM, live)
    for project, name in RUN_AS.items():
        assert (told[project]["printed"], told[project]["code"]) == (f"{name}\n", 3)
    assert told["stopped"] == "Stopped"
    assert told["strong"]["printed"] == f"{ALICE}\n"
    assert told["weak"].startswith(("EngineRefused", "EngineUnavailable")), told["weak"]


def test_ranks_on_two_nodes_are_one_user(folder: Path, cluster: Cluster) -> None:
    async def live() -> Sequence[str]:
        harness = harness_in(folder, cluster)
        launch = asking(harness, "echo $(id -un) $RANK $TOKEN", ranks=2, secrets={"TOKEN": SECRET})
        told = await ran(harness, placed(launch, "n1", "n2"))
        return [told["printed"], (await harness.printed(launch.key, rank=1)).decode(), str(told["code"])]

    assert as_user(PLATFORM, live) == [f"{ALICE} 0 {SECRET}\n", f"{ALICE} 1 {SECRET}\n", "0"]


SETTINGS = """\
[jobs]
checkpoint_root = "{shared}/checkpoints"

[clusters.hpc.slurm]
work_dir = "{shared}/dujiang"
conf = "{conf}"
run_as = {{ "*" = "{user}" }}
python = "/usr/bin/python3"
poll_s = 0.5
"""
JOB = """\
name: as-another
placement: {{cluster: hpc}}
resources: {{cpu: 1, memory: 128MiB}}
time_limit: 10m
outputs: {{model: {{name: digits, path: net.onnx}}}}
run: |
  id -un
  cp {shared}/net.onnx $DUJIANG_OUTPUT_DIR
  cp -r {shared}/logs $DUJIANG_OUTPUT_DIR
"""


def test_a_job_goes_through_the_platform_as_another(tmp_path: Path, cluster: Cluster) -> None:
    """Its output, its model version and its figures too."""
    home = tmp_path / "home"
    platform = PlatformProcess(home)
    with scratch() as shared:
        (tmp_path / "job.yaml").write_text(JOB.format(shared=shared))
        mlp(shared / "net.onnx")
        writer = Writer(str(shared / "logs"))
        writer.add_event(_event("loss", 3, 0.25))
        writer.close()
        (home / "dujiang.toml").write_text(SETTINGS.format(shared=shared, conf=cluster.conf, user=ALICE))
        platform.start()
        try:
            said = platform.run("submit", str(tmp_path / "job.yaml"))
            assert said.code == 0, said.err
            until(lambda: platform.jobs()[0]["state"] in ("COMPLETED", "FAILED", "NODE_FAIL"), 60, "the job to end")
            (job,) = platform.jobs()
            assert (job["state"], platform.run("logs", job["id"]).out) == ("COMPLETED", f"{ALICE}\n"), job
            with platform.client() as client:
                path = "/v1/models/digits/versions/1.0.0"
                until(lambda: client.get(path)["state"] != "PENDING", 60, "its model to be registered")
                version = client.get(path)
            assert (version["state"], version["metrics"]) == ("READY", {"loss": 0.25}), version
            (made,) = shared.glob("dujiang/runs/*/1/output/net.onnx")
            assert made.owner() == ALICE
            assert platform.tracebacks() == []
        finally:
            platform.stop()


class TestSlurmAsAnother(EngineContract, ProcessContract):
    """The contract, of a platform that is root with jobs that are not."""

    @pytest.fixture
    def tmp_path(self) -> Iterator[Path]:
        """A folder in which jobs may read and write, too."""
        with scratch() as folder:
            folder.chmod(0o777)
            yield folder

    @pytest.fixture
    async def harness(self, tmp_path: Path, cluster: Cluster) -> AsyncIterator[SlurmHarness]:
        (tmp_path / "engine").mkdir(0o711)
        harness = harness_in(tmp_path, cluster, run_as={"*": ALICE})
        yield harness
        await harness.clean()
