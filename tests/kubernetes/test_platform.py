"""A platform with a Kubernetes cluster, as people use it: by commands, over a real process.

Beside the cluster that answers there are two that cannot be reached, one without a kubeconfig and one whose token is
over, for as long as the platform lives: everything here holds all the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.process import PlatformProcess, until
from tests.e2e.acting import WITHIN_S, Acting
from tests.kubernetes import images
from tests.kubernetes.cluster import Cluster

pytestmark = pytest.mark.kubernetes
SECRET = "hush-hush-4711"
PREFIX = "over-"
USUAL = {
    "placement": {"cluster": "cloud"}, "time_limit": "10m", "grace": "5s",
    "resources": {"cpu": 0.1, "memory": "64MiB"},
}  # fmt: skip
SETTINGS = """\
[jobs]
checkpoint_root = "{shared}/checkpoints"

[clusters.cloud.kubernetes]
kubeconfig = "{kubeconfig}"
namespace_prefix = "{prefix}"
image = "{image}"
work_dir = "{shared}/work"
work_volume = {{ hostPath = {{ path = "{shared}/work" }} }}
volumes = {{ "{shared}/checkpoints" = {{ hostPath = {{ path = "{shared}/checkpoints" }} }} }}
watch_s = 0.1
request_timeout_s = 5
stale_after_s = 3

[clusters.forgotten.kubernetes]
kubeconfig = "{shared}/there-is-none"
image = "{image}"

[clusters.over.kubernetes]
kubeconfig = "{expired}"
image = "{image}"
"""
STEPS = """\
last=$(ls "$DUJIANG_CHECKPOINT_DIR" | sort -n | tail -n 1); echo "from ${last:-0}"
trap 'echo saved; exit 143' TERM
for step in $(seq $(( ${last:-0} + 1 )) 30); do
  sleep 0.3; echo $step > .part; mv .part "$DUJIANG_CHECKPOINT_DIR/$step"
  echo "step $step"
done
"""


@dataclass(frozen=True, slots=True)
class Scene(Acting):
    """The platform, its folder that all Pods share, and the cluster."""

    cluster: Cluster

    def pods(self, job: str) -> list[dict[str, Any]]:
        """Return the Pods of a job."""
        found = self.cluster.request("GET", f"/api/v1/namespaces/{PREFIX}default/pods")["items"]
        return [pod for pod in found if pod["metadata"]["annotations"]["dujiang.io/key"].startswith(job)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[Scene]:
    """One platform for all tests. At the end it proves its books, but for what runs on clusters that it cannot reach,
    and has met no error that was not foreseen.
    """
    folder = tmp_path_factory.mktemp("platform")
    shared = folder / "shared"
    for name in ("work", "checkpoints"):
        (shared / name).mkdir(parents=True)
    platform = PlatformProcess(folder / "home", env={"A_TOKEN": SECRET})
    expired = cluster.kubeconfig(token=cluster.account_token(lives_s=-60))
    (platform.home / "dujiang.toml").write_text(
        SETTINGS.format(
            shared=shared, kubeconfig=cluster.kubeconfig(), prefix=PREFIX, image=images.BUSYBOX, expired=expired
        )
    )
    found = Scene(platform, shared, USUAL, cluster)
    try:
        platform.start()
        until(lambda: "cloud" not in found.away(), WITHIN_S, "it answers")
        yield found
        proven = {one["name"]: one for one in platform.run("verify", "--json").json["checks"]}
        assert {name for name, one in proven.items() if not one["holds"]} == {"processes"}, proven
        unseen = {one["row"]: one["sentence"] for one in proven["processes"]["unseen"]}
        assert set(unseen) == {"forgotten", "over"}, unseen
        assert all("could not be looked at" in sentence for sentence in unseen.values())
        assert platform.stop() == 0
        assert platform.tracebacks() == []
    finally:
        platform.kill()  # where something failed on the way; else it has stopped
        cluster.kubectl("delete", "namespace", f"{PREFIX}default", "--ignore-not-found", "--wait=false")


def test_its_nodes_and_devices_are_in_the_pool(scene: Scene) -> None:
    nodes = [node for node in scene.platform.run("nodes", "--json").json if node["cluster"] == "cloud"]
    assert {node["name"]: len(node["devices"]) for node in nodes} == dict.fromkeys(scene.cluster.nodes, 4)
    assert {node["state"] for node in nodes} == {"READY"}
    assert (scene.clusters()["cloud"]["kind"], scene.clusters()["cloud"]["images"]) == ("kubernetes", "kubernetes")


def test_clusters_that_cannot_be_reached_say_why_and_disturb_no_other(scene: Scene) -> None:
    shown = scene.clusters()
    assert {name: one["reachable"] for name, one in shown.items()} == {
        "local": True, "cloud": True, "forgotten": False, "over": False,
    }  # fmt: skip
    assert f"There is no kubeconfig at {scene.folder}/there-is-none" in shown["forgotten"]["reason"]
    assert "does not accept the platform's token" in shown["over"]["reason"]
    assert "expired" in shown["over"]["reason"]
    (scene.folder / "lost.yaml").write_text("{name: lost, run: 'true', placement: {cluster: over}}")
    said = scene.platform.run("submit", str(scene.folder / "lost.yaml"))
    assert said.code == 2
    assert "Cluster over has shown no node yet" in said.err
    job = scene.submit("works", "echo here")
    assert scene.when(job)["state"] == "COMPLETED"


def test_a_job_with_an_image_and_secrets_runs_on_a_device(scene: Scene) -> None:
    job = scene.submit(
        "image", 'busybox | head -n 1; echo "$NVIDIA_VISIBLE_DEVICES"; printf %s "$TOKEN" | sha256sum',
        image=images.BUSYBOX, secrets={"TOKEN": "${A_TOKEN}"}, resources={"gpu": 1, "memory": "64MiB"},
    )  # fmt: skip
    found = scene.when(job)
    assert (found["state"], found["exit_code"]) == ("COMPLETED", 0), found
    said = scene.printed(job)
    assert "BusyBox" in said[0]
    node = found["attempts"][0]["node"]
    assert said[1].startswith(f"GPU-{node}-")
    assert said[2].startswith(hashlib.sha256(SECRET.encode()).hexdigest())
    assert SECRET not in json.dumps(found)
    assert SECRET not in scene.cluster.kubectl("get", "pods,configmaps", "-n", f"{PREFIX}default", "-o", "json")


def test_a_killed_program_is_noticed_and_resumed_from_its_checkpoint(scene: Scene) -> None:
    job = scene.submit(
        "steps", STEPS, checkpoint={"interval": "1s"}, retry={"limit": 2, "on": ["unknown", "infrastructure"]}
    )
    scene.says(job, "step 3")
    running = programs(job)
    assert running
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    found = scene.when(job)
    assert found["state"] == "COMPLETED", found
    first, second = found["attempts"]
    assert (first["state"], first["signal"]) == ("FAILED", 9), first
    resumed = int(Path(second["resume_from"]).name)
    printed = scene.printed(job, "--attempt", "2")
    assert printed == [f"from {resumed}", *(f"step {step}" for step in range(resumed + 1, 31))]
    assert resumed >= 3


def test_a_cancelled_job_saves_itself_and_leaves_nothing(scene: Scene) -> None:
    job = scene.submit("cancelled", STEPS.replace(" 30)", " 99999)"), checkpoint={})
    scene.says(job, "step 1")
    scene.platform.run("cancel", job)
    found = scene.when(job)
    assert found["state"] == "CANCELLED", found
    assert scene.printed(job)[-1] == "saved"
    scene.cluster.wait("its Pods to be gone", lambda: not scene.pods(job))


def test_a_service_has_a_name_in_the_cluster_and_is_behind_it_when_it_answers(scene: Scene) -> None:
    """There is no kube-proxy here, so its name is looked up, and the Pod behind it asked itself."""
    job = scene.submit("web", 'exec nc -ll -p "$PORT" -e echo hello', kind="service")
    shown = scene.when(job, "RUNNING")
    name, namespace = f"dj-{job.replace('_', '-')}", f"{PREFIX}default"
    made = scene.cluster.request("GET", f"/api/v1/namespaces/{namespace}/services/{name}")
    asks = scene.submit("asks", f"nslookup {name}.{namespace}.svc.cluster.local")
    assert scene.when(asks)["state"] == "COMPLETED"
    assert f"Address: {made['spec']['clusterIP']}" in scene.printed(asks)
    found = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    found += f"?labelSelector=kubernetes.io/service-name={name}"

    def behind() -> list[str]:
        slices = scene.cluster.request("GET", found)["items"]
        return [
            f"http://{end['addresses'][0]}:{each['ports'][0]['port']}"
            for each in slices for end in each["endpoints"] or () if end["conditions"]["ready"]
        ]  # fmt: skip

    until(lambda: behind() == shown["endpoints"], WITHIN_S, "the Pod is behind it")
    scene.platform.run("cancel", job)
    assert scene.when(job)["state"] == "CANCELLED"
    until(lambda: not behind(), WITHIN_S, "nobody is")


def test_it_goes_on_where_the_platform_is_killed_and_started_again(scene: Scene) -> None:
    job = scene.submit("survivor", "echo begun; sleep 8; echo over")
    scene.says(job, "begun")
    scene.platform.kill()
    scene.platform.start()
    found = scene.when(job)
    assert (found["state"], len(found["attempts"])) == ("COMPLETED", 1), found
    assert scene.printed(job) == ["begun", "over"]


def test_while_the_api_server_is_away_it_is_shown_so_and_work_goes_on(scene: Scene) -> None:
    go = scene.folder / "work" / "go"
    running = scene.submit("running", f"echo begun; until [ -e {go} ]; do sleep 0.2; done; echo over")
    scene.says(running, "begun")
    scene.cluster.stop("api")
    try:
        until(lambda: "cloud" in scene.away(), WITHIN_S, "it is shown as away")
        assert f"Nothing answers at {scene.cluster.url}" in scene.away()["cloud"]
        here = scene.submit("here", "echo here", placement={"cluster": "local"})
        assert scene.when(here)["state"] == "COMPLETED"
        assert scene.show(running)["state"] == "RUNNING"
        go.touch()
    finally:
        scene.cluster.start("api")
    until(lambda: "cloud" not in scene.away(), WITHIN_S, "it is back")
    found = scene.when(running)
    assert (found["state"], len(found["attempts"])) == ("COMPLETED", 1), found
    assert scene.printed(running) == ["begun", "over"]


def programs(job: str) -> list[int]:
    """Return the shells that run a job's text in its container, not the runner that watches over them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                named = f"DUJIANG_JOB_ID={job}".encode() in (entry / "environ").read_bytes().split(b"\0")
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if named and words[-2:] == ["run", ""]:
                found.append(int(entry.name))
    return found
