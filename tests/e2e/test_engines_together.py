"""One platform over this machine, a real Slurm and a real Kubernetes: one queue, one way to explain, one bill."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.process import PlatformProcess, until
from tests.e2e.acting import WITHIN_S, Acting
from tests.kubernetes import cluster as kubernetes
from tests.kubernetes import images
from tests.slurm import cluster as slurm

pytestmark = [pytest.mark.slurm, pytest.mark.kubernetes]
LOCAL, SLURM, KUBERNETES = "local", "hpc", "cloud"
CLUSTERS = (KUBERNETES, LOCAL, SLURM)
USUAL = {"time_limit": "10m", "grace": "2s", "resources": {"cpu": 0.1, "memory": "64MiB"}, "retry": {"limit": 0}}
SETTINGS = """\
[clusters.hpc.slurm]
work_dir = "{shared}/slurm"
conf = "{conf}"
allow_root = true
poll_s = 0.5
facts_lag_s = 1.0
device_memory_bytes = {{ h100 = 85899345920 }}

[clusters.cloud.kubernetes]
kubeconfig = "{kubeconfig}"
image = "{image}"
work_dir = "{shared}/kubernetes"
work_volume = {{ hostPath = {{ path = "{shared}/kubernetes" }} }}
volumes = {{ "{shared}/signs" = {{ hostPath = {{ path = "{shared}/signs" }} }} }}
watch_s = 0.2
stale_after_s = 3
"""
WHOLE_NODE = {"gpu": 4, "cpu": 63.5, "memory": "64MiB"}
"""What leaves half a processor of a node of the clusters, and none of a node of Slurm."""
SOON_S = 20.0
"""Less than any engine waits for an answer (30 s): who is done by then has not waited for a cluster that hangs."""


@dataclass(frozen=True, slots=True)
class Scene(Acting):
    """The platform, and what it has beside this machine."""

    hpc: slurm.Cluster
    cloud: kubernetes.Cluster

    def sign(self, name: str) -> Path:
        """Return a file that work on every cluster sees."""
        return self.folder / "signs" / name

    def waits_for(self, name: str) -> str:
        """Return the text of a job that goes on until a sign is there."""
        return f"echo begun; until [ -e {self.sign(name)} ]; do sleep 0.2; done; echo over"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One platform for all tests here; at the end everything is proved, and nothing was met that was not foreseen."""
    slurm.install()
    scratch = Path(tempfile.mkdtemp(prefix="engines-"))  # short, as sockets need
    scratch.chmod(0o755)
    home = tmp_path_factory.mktemp("engines") / "home"
    platform = PlatformProcess(home)
    for name in ("slurm", "kubernetes", "signs"):
        (scratch / "shared" / name).mkdir(parents=True)
    try:
        with slurm.Cluster(scratch / "s") as hpc, kubernetes.Cluster(scratch / "k") as cloud:
            (home / "dujiang.toml").write_text(
                SETTINGS.format(
                    shared=scratch / "shared", conf=hpc.conf, kubeconfig=cloud.kubeconfig(), image=images.BUSYBOX
                )
            )
            found = Scene(platform, scratch / "shared", USUAL, hpc, cloud)
            platform.start()
            until(lambda: not found.away(), WITHIN_S, "all of them answer")
            yield found
            proven = platform.run("verify", "--json")
            assert (proven.code, proven.json["holds"]) == (0, True), proven.out
            assert platform.stop() == 0
            assert platform.tracebacks() == []
    finally:
        platform.kill()  # where something failed on the way; else it has stopped
        shutil.rmtree(scratch, ignore_errors=True)


def test_they_are_one_pool(scene: Scene) -> None:
    shown = scene.clusters()
    assert {name: one["kind"] for name, one in shown.items()} == {
        LOCAL: "local", SLURM: "slurm", KUBERNETES: "kubernetes",
    }  # fmt: skip
    nodes = Counter(node["cluster"] for node in scene.platform.run("nodes", "--json").json)
    assert nodes == {LOCAL: 1, SLURM: len(scene.hpc.nodes), KUBERNETES: len(scene.cloud.nodes)}


def test_the_jobs_of_one_queue_fill_all_three_by_themselves(scene: Scene) -> None:
    whole = len(scene.hpc.nodes) + len(scene.cloud.nodes)
    large = [scene.submit(f"large-{number}", scene.waits_for("large"), resources=WHOLE_NODE) for number in range(whole)]
    try:
        places = Counter(place(scene.when(job, "RUNNING")) for job in large)
        wanted = [(SLURM, node) for node in scene.hpc.nodes] + [(KUBERNETES, node) for node in scene.cloud.nodes]
        assert places == Counter(wanted)
        one_more = scene.submit("one-more", scene.waits_for("large"), resources=WHOLE_NODE)
        small = scene.submit("small", scene.waits_for("large"), resources={"cpu": 1, "memory": "64MiB"})
        assert place(scene.when(small, "RUNNING"))[0] == LOCAL, "what is left of the clusters does not hold it"
        until(lambda: scene.show(one_more)["reason"] == "Resources", WITHIN_S, "it says why it waits")
        told = scene.platform.run("explain", one_more).out
        assert "needs 4 on one node, largest free is 0" in told
        assert re.search("waits for job_.* to end", told), told
    finally:
        scene.sign("large").touch()
    for job in (*large, one_more, small):
        found = scene.when(job)
        assert (found["state"], len(found["attempts"])) == ("COMPLETED", 1), found
        assert scene.printed(job) == ["begun", "over"]


@pytest.mark.parametrize(
    ("name", "run", "limit", "state"),
    [
        ("exit", "echo so it goes; exit 3", "10m", "FAILED"),
        ("killed", "kill -9 $$", "10m", "FAILED"),
        ("endless", "sleep 600", "1s", "TIMEOUT"),
        ("full", "echo 'write /data/x: No space left on device' >&2; exit 1", "10m", "FAILED"),
    ],
)
def test_they_explain_the_same_end_alike(scene: Scene, name: str, run: str, limit: str, state: str) -> None:
    jobs = {
        cluster: scene.submit(f"{name}-{cluster}", run, time_limit=limit, placement={"cluster": cluster})
        for cluster in CLUSTERS
    }
    seen = {cluster: end(scene.when(job)) for cluster, job in jobs.items()}
    assert seen[LOCAL][0] == state
    assert seen == dict.fromkeys(CLUSTERS, seen[LOCAL])
    told = {}
    for cluster, job in jobs.items():
        said = scene.platform.run("explain", job, "--json")
        assert said.code == 0, said.err
        assert said.json["evidence"], said.json["text"]
        told[cluster] = {part: said.json[part] for part in ("topic", "cause", "blame", "platform", "advice")}
    assert told == dict.fromkeys(CLUSTERS, told[LOCAL])


def test_a_cluster_that_hangs_leaves_the_others_as_they_are(scene: Scene) -> None:
    controller = int((scene.hpc.folder / "slurmctld.pid").read_text())
    stop_each: list[tuple[str, Callable[[int], None]]] = [
        (SLURM, lambda number: os.kill(controller, number)),
        (KUBERNETES, lambda number: scene.cloud.signal("api", number)),
    ]
    for hung, send in stop_each:
        others = [name for name in CLUSTERS if name != hung]
        job = scene.submit(f"through-{hung}", scene.waits_for(f"through-{hung}"), placement={"cluster": hung})
        scene.when(job, "RUNNING")
        send(signal.SIGSTOP)
        try:
            scene.sign(f"through-{hung}").touch()
            for name in others:
                began = time.monotonic()
                other = scene.submit(f"beside-{hung}-{name}", "echo here", placement={"cluster": name})
                found = scene.when(other, within_s=SOON_S)
                assert (found["state"], scene.printed(other)) == ("COMPLETED", ["here"])
                assert time.monotonic() - began < SOON_S
            until(lambda hung=hung: set(scene.away()) == {hung}, WITHIN_S, f"{hung} alone is shown as away")
            assert scene.away()[hung]
        finally:
            send(signal.SIGCONT)
        until(lambda: not scene.away(), WITHIN_S, f"{hung} is back")
        found = scene.when(job)
        assert (found["state"], len(found["attempts"])) == ("COMPLETED", 1), found


def test_there_is_one_bill_and_it_is_the_ledger(scene: Scene) -> None:
    for cluster in CLUSTERS:
        scene.when(scene.submit(f"billed-{cluster}", "sleep 1", placement={"cluster": cluster}))
    with scene.platform.client() as client:
        until(lambda: client.get("/v1/bills/verify")["waiting"] == 0, WITHIN_S, "all that ended is charged")
        assert client.get("/v1/bills/verify")["holds"]
        rows = list(client.items("/v1/allocations"))
    bills = [bill for month in months(rows) for bill in scene.platform.run("bill", "--month", month, "--json").json]
    lines = [line for bill in bills for line in bill["lines"]]
    assert all(line["provisional_quantity"] == "0" for line in lines)
    assert {row["cluster"] for row in rows} == set(CLUSTERS)
    for resource, field in (
        ("gpu", "gpu_milli"), ("cpu", "cpu_milli"), ("memory", "memory_bytes"), ("gpu_memory", "device_memory_bytes"),
    ):  # fmt: skip
        held = sum(row[field] * micros(row) for row in rows)
        assert held > 0
        assert sum(int(line["quantity"]) for line in lines if line["resource"] == resource) == held, resource


def place(job: dict[str, Any]) -> tuple[str, str]:
    """Return cluster and node of a job's only attempt."""
    (attempt,) = job["attempts"]
    return attempt["cluster"], attempt["node"]


def end(job: dict[str, Any]) -> tuple[Any, ...]:
    """Return how a job ended, without where and when."""
    (attempt,) = job["attempts"]
    cause = (attempt["diagnosis"] or {}).get("cause")
    return job["state"], job["reason"], attempt["state"], attempt["reason"], job["exit_code"], job["signal"], cause


def months(rows: list[dict[str, Any]]) -> list[str]:
    """Return the months in which something was held."""
    return sorted({f"{datetime.fromisoformat(row[at]):%Y-%m}" for row in rows for at in ("started_at", "ended_at")})


def micros(row: dict[str, Any]) -> int:
    """Return how long a row of the ledger lasted."""
    return (datetime.fromisoformat(row["ended_at"]) - datetime.fromisoformat(row["started_at"])) // timedelta(
        microseconds=1
    )
