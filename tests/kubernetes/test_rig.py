"""The test cluster itself is what it says: real nodes, containers, GPUs that count, and nothing left over."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes import fakes, images
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.machine import CGROUPS, cgroup_mounts, remove_stale_cgroups

pytestmark = pytest.mark.kubernetes


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"cluster", "control"} & set(request.fixturenames):
        forget(request.getfixturevalue(name))


def forget(cluster: Cluster) -> None:
    """Remove all pods."""
    path = "/api/v1/namespaces/default/pods"
    cluster.request("DELETE", f"{path}?gracePeriodSeconds=0")
    cluster.wait("no pods", lambda: not cluster.request("GET", path)["items"])


def run(cluster: Cluster, name: str, script: str, **more: Any) -> None:
    """Start a pod of one container; `container` and `metadata` are more of those, the rest is of the pod."""
    container = {"name": "main", "image": images.BUSYBOX, "imagePullPolicy": "IfNotPresent",
                 "command": ["sh", "-c", script], **more.pop("container", {})}  # fmt: skip
    metadata = {"name": name, **more.pop("metadata", {})}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container], **more}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    cluster.request("POST", "/api/v1/namespaces/default/pods", pod)


def ended(pod: Any) -> Any:
    """Return how the container of a pod ended."""
    return pod["status"]["containerStatuses"][0]["state"]["terminated"]


def test_both_nodes_are_ready_and_offer_their_gpus(cluster: Cluster) -> None:
    def real() -> list[Any]:
        nodes = cluster.request("GET", "/api/v1/nodes")["items"]
        return [node for node in nodes if node["metadata"]["name"] in ("n1", "n2")]

    # Tests before may have had the API server away: then nodes were tainted for a while.
    cluster.wait("no taint", lambda: not any(node["spec"].get("taints") for node in real()))
    nodes = real()
    assert {node["metadata"]["name"]: node["status"]["allocatable"]["nvidia.com/gpu"] for node in nodes} == {
        "n1": "4",
        "n2": "4",
    }
    assert all(cluster.is_ready(name) for name in ("n1", "n2"))
    assert {node["status"]["allocatable"]["cpu"] for node in nodes} == {"64"}
    assert {node["status"]["capacity"]["memory"] for node in nodes} == {"512Gi"}


def test_a_pod_prints_and_ends_with_its_exit_code(cluster: Cluster) -> None:
    run(cluster, "three", "echo one; echo two >&2; exit 3")

    pod = cluster.wait_for_phase("three", "Failed")

    assert (ended(pod)["exitCode"], ended(pod)["reason"]) == (3, "Error")
    assert sorted(cluster.kubectl("logs", "three").splitlines()) == ["one", "two"]  # two pipes have no order


def test_a_program_is_run_in_a_container_and_a_port_of_it_reached(cluster: Cluster) -> None:
    run(cluster, "inside", "echo hello > /tmp/index.html; while true; do nc -l -p 8000 -e cat /tmp/index.html; done")
    pod = cluster.wait_for_phase("inside", "Running")

    assert cluster.kubectl("exec", "inside", "--", "cat", "/tmp/index.html").strip() == "hello"
    cluster.wait("the port", lambda: heard(pod["status"]["podIP"]) == "hello")


def heard(address: str) -> str:
    """Return what is said at port 8000 of an address."""
    with contextlib.suppress(OSError), socket.create_connection((address, 8000), timeout=2) as connection:
        return connection.recv(100).decode().strip()
    return ""


def test_a_container_that_takes_too_much_memory_is_ended(cluster: Cluster) -> None:
    limits = {"resources": {"limits": {"memory": "32Mi"}}}
    run(cluster, "greedy", "dd if=/dev/zero of=/dev/null bs=100M count=9", container=limits)

    assert ended(cluster.wait_for_phase("greedy", "Failed"))["reason"] == "OOMKilled"


def test_a_pod_sees_the_gpus_that_it_was_given(cluster: Cluster) -> None:
    script = "echo $NVIDIA_VISIBLE_DEVICES; ls /dev/nvidia*"
    run(cluster, "two", script, nodeName="n2", container={"resources": {"limits": {"nvidia.com/gpu": "2"}}})
    cluster.wait_for_phase("two", "Succeeded")

    ids, *files = cluster.kubectl("logs", "two").splitlines()

    numbers = [each.removeprefix("GPU-n2-") for each in ids.split(",")]
    assert len(set(numbers)) == 2
    assert sorted(files) == sorted(f"/dev/nvidia{number}" for number in numbers)


def test_no_more_gpus_are_given_than_there_are(cluster: Cluster) -> None:
    for number in range(3):
        gpus = {"resources": {"limits": {"nvidia.com/gpu": "4"}}}
        run(cluster, f"whole-{number}", "sleep 1000", container=gpus)

    def states() -> list[str]:
        return sorted(cluster.pod(f"whole-{number}")["status"]["phase"] for number in range(3))

    cluster.wait("two to run", lambda: states() == ["Pending", "Running", "Running"])
    waiting = next(pod for pod in cluster.request("GET", "/api/v1/namespaces/default/pods")["items"]
                   if pod["status"]["phase"] == "Pending")  # fmt: skip
    assert "Insufficient nvidia.com/gpu" in waiting["status"]["conditions"][0]["message"]


def test_a_broken_gpu_is_offered_no_more(cluster: Cluster) -> None:
    cluster.nodes["n1"].break_gpus(0, 3)
    cluster.wait("two GPUs fewer", lambda: cluster.free_gpus("n1") == 2)
    cluster.nodes["n1"].break_gpus()
    cluster.wait("all GPUs again", lambda: cluster.free_gpus("n1") == 4)

    assert cluster.free_gpus("n2") == 4


def test_the_python_of_this_machine_runs_in_a_container(cluster: Cluster) -> None:
    volumes, mounts = images.host_mounts()
    words = [sys.executable, "-c", "import numpy, os; print(int(numpy.arange(5).sum()), os.getpid())"]
    python = {"image": images.HOST_PYTHON, "command": words, "volumeMounts": mounts}
    run(cluster, "python", "", container=python, volumes=volumes)

    cluster.wait_for_phase("python", "Succeeded", "Failed")

    assert cluster.kubectl("logs", "python").strip() == "10 1"


def test_pods_of_two_nodes_reach_each_other(cluster: Cluster) -> None:
    run(cluster, "hears", "nc -l -p 7000 -e cat", nodeName="n1")
    cluster.wait_for_phase("hears", "Running")
    address = cluster.pod("hears")["status"]["podIP"]
    script = f"until (echo over here; sleep 1) | nc {address} 7000; do sleep 0.2; done"
    run(cluster, "says", script, nodeName="n2")

    cluster.wait_for_phase("says", "Succeeded")

    assert cluster.kubectl("logs", "says").strip() == "over here"


def test_pods_of_a_headless_service_find_each_other_by_name(cluster: Cluster) -> None:
    service = {
        "clusterIP": "None",
        "selector": {"gang": "a"},
        "publishNotReadyAddresses": True,
        "ports": [{"port": 7000}],
    }
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "gang"}, "spec": service})
    volumes, mounts = images.host_mounts()
    listen = "import socket; s = socket.create_server(('', 7000)); s.accept()[0].sendall(socket.getfqdn().encode())"
    python = {"image": images.HOST_PYTHON, "command": [sys.executable, "-c", listen], "volumeMounts": mounts}
    member = {"hostname": "rank-0", "subdomain": "gang", "metadata": {"labels": {"gang": "a"}}}
    run(cluster, "first", "", nodeName="n1", container=python, volumes=volumes, **member)
    run(cluster, "second", "until nc rank-0.gang 7000 | grep .; do sleep 0.2; done", nodeName="n2")

    cluster.wait_for_phase("second", "Succeeded")
    cluster.kubectl("delete", "service", "gang")

    assert cluster.kubectl("logs", "second").splitlines()[-1] == "rank-0.gang.default.svc.cluster.local"


def test_images_are_given_to_all_nodes(cluster: Cluster) -> None:
    cluster.import_image(images.busybox("dujiang.test/mine:7", ("/bin/echo", "mine")))
    for node in ("n1", "n2"):
        run(cluster, f"mine-{node}", "", nodeName=node, container={"image": "dujiang.test/mine:7", "command": None})
        cluster.wait_for_phase(f"mine-{node}", "Succeeded")
        assert cluster.kubectl("logs", f"mine-{node}").strip() == "mine"


def test_a_node_whose_kubelet_died_is_not_ready_until_it_is_back(cluster: Cluster) -> None:
    run(cluster, "lives", "sleep 5; echo lived", nodeName="n1")
    cluster.wait_for_phase("lives", "Running")
    cluster.kill("n1/kubelet")
    cluster.wait("n1 to be lost", lambda: not cluster.is_ready("n1"), 40)
    assert cluster.is_ready("n2")

    cluster.start("n1/kubelet")

    cluster.wait("n1 to be back", lambda: cluster.is_ready("n1") and cluster.free_gpus("n1") == 4, 40)
    cluster.wait_for_phase("lives", "Succeeded")
    assert cluster.kubectl("logs", "lives").strip() == "lived"


def test_a_node_without_power_runs_nothing(cluster: Cluster) -> None:
    mark = f"sleep {time.time_ns() % 10**9}"
    run(cluster, "doomed", f"exec {mark}", nodeName="n2")
    cluster.wait_for_phase("doomed", "Running")
    cluster.wait("its process", lambda: commands(mark))

    cluster.power_off("n2")
    assert not commands(mark)
    cluster.wait("n2 to be lost", lambda: not cluster.is_ready("n2"), 40)
    cluster.power_on("n2")

    cluster.wait("n2 to be back", lambda: cluster.is_ready("n2") and cluster.free_gpus("n2") == 4)
    assert ended(cluster.wait_for_phase("doomed", "Failed"))["exitCode"] != 0


@pytest.mark.parametrize("program", ["api", "etcd", "scheduler", "controllers"])
def test_the_cluster_survives_the_death_of(cluster: Cluster, program: str) -> None:
    cluster.kill(program)
    cluster.start(program)

    cluster.wait("the API server", lambda: cluster.request("GET", "/readyz") == "ok")
    run(cluster, "after", "echo after")
    cluster.wait_for_phase("after", "Succeeded")
    assert cluster.kubectl("logs", "after").strip() == "after"


def test_who_may_not_speak_to_it_is_refused(cluster: Cluster) -> None:
    def said(kubeconfig: Path, *words: str) -> str:
        command = [str(cluster.programs / "kubectl"), "--kubeconfig", str(kubeconfig), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    whoami = ("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    assert said(cluster.kubeconfig("platform"), *whoami) == "platform"
    assert "forbidden" in said(cluster.kubeconfig("platform"), "get", "pods")
    assert "certificate" in said(cluster.kubeconfig(ca="other-ca"), *whoami)
    assert said(cluster.kubeconfig(ca=None), *whoami) == "admin"
    assert said(cluster.kubeconfig(token=cluster.account_token()), *whoami) == "system:serviceaccount:default:default"
    for wrong in ("nonsense", cluster.account_token(lives_s=-60)):
        assert "Unauthorized" in said(cluster.kubeconfig(token=wrong), *whoami)


def test_fake_nodes_are_ready_by_the_hundred_and_their_pods_end_as_told(control: Cluster) -> None:
    names = control.add_fake_nodes(500, gpus=8)
    told = {fakes.ENDS_AFTER: "1s", fakes.EXITS_WITH: "5"}
    run(
        control,
        "told",
        "",
        metadata={"annotations": told},
        container={"resources": {"limits": {"nvidia.com/gpu": "8"}}},
    )
    run(control, "stays", "", container={"resources": {"limits": {"nvidia.com/gpu": "8"}}})

    pod = control.wait_for_phase("told", "Failed")

    assert ended(pod)["exitCode"] == 5
    assert pod["spec"]["nodeName"] in names
    assert control.wait_for_phase("stays", "Running")["spec"]["nodeName"] in names


def test_a_second_cluster_runs_beside_it_and_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    with Cluster(tmp_path / "c", nodes=1) as second:
        run(second, "stays", "sleep 1000")
        second.wait_for_phase("stays", "Running")
        assert left_of(second.folder)

    assert not left_of(second.folder)
    assert cluster.is_ready("n1")


def test_nothing_is_left_of_a_cluster_whose_tests_were_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.kubernetes.cluster", "--nodes", "1", "--folder", str(tmp_path / "c")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    assert process.stdout.readline().startswith("KUBECONFIG=")
    assert left_of(tmp_path)

    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    deadline = time.monotonic() + 10
    while left_of(tmp_path):
        assert time.monotonic() < deadline, left_of(tmp_path)
        time.sleep(0.1)
    assert cgroups_of(process.pid)
    remove_stale_cgroups()  # the next cluster does that when it starts
    assert not cgroups_of(process.pid)


def commands(mark: str) -> list[str]:
    """Return the command lines of all processes that have this in them, but those of this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if mark in line and path.parent.name != str(os.getpid()):
            found.append(line)
    return found


def cgroups_of(pid: int) -> list[Path]:
    """Return the control groups of clusters that a process started."""
    return [path for mount, _ in cgroup_mounts() for path in mount.glob(f"{CGROUPS}{pid}-*")]


def left_of(folder: Path) -> list[str]:
    """Return processes and mounts that name a folder."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    return [*commands(str(folder)), *mounts]
