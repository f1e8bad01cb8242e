"""One real node of a test cluster: containerd, kubelet and the plugin that offers GPUs which are not there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.kubernetes import images
from tests.kubernetes.machine import Machine, cni_folder, make_cgroup, network_of, remove_cgroups

SOCKET = "/run/containerd/containerd.sock"
# The network's own records do not outlive a loss of power: nor do the networks.
KEPT, SCRATCH = ("/var/lib/kubelet", "/var/lib/containerd", "/var/log"), ("/run/containerd", "/var/lib/cni")
# What GPU feature discovery would say of the node.
LABELS = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}


@dataclass(frozen=True, slots=True)
class Size:
    """What a node says that it has, whatever the machine has: containers really get what there is."""

    gpus: int = 4
    cpus: int = 64
    memory_bytes: int = 512 << 30


CONTAINERD = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "{stream_port}"
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  # Root of a container may lack the right to make processes less likely to be ended for lack of memory.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"
"""


def kubelet_config(port: int, cgroup: str, ca: Path, more: Mapping[str, object]) -> dict[str, object]:
    """Return a kubelet's configuration, tuned so that a test sees changes in seconds."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": port,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False}, "webhook": {"enabled": False}, "x509": {"clientCAFile": str(ca)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupRoot": f"/{cgroup}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "nodeLeaseDurationSeconds": 4,
        "nodeStatusUpdateFrequency": "1s",
        "eventRecordQPS": 0,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        **more,
    }  # fmt: skip


def pretend(folder: Path, cpus: int, memory_bytes: int) -> dict[str, Path]:
    """Write the files in which a kubelet reads the size of its machine; returns where they are to be seen.

    Its control groups may only name processors that are there. So the same ones are listed again and again, each time
    with one more zero before their number: as files these are others, as numbers the same.
    """
    memory_kb = memory_bytes // 1024
    system = folder / "system"
    real = sorted(os.sched_getaffinity(0))
    for number in range(cpus):
        again, which = divmod(number, len(real))
        topology = system / "node" / "node0" / f"cpu{'0' * again}{real[which]}" / "topology"
        topology.mkdir(parents=True)
        (topology / "core_id").write_text(f"{number}\n")
        (topology / "physical_package_id").write_text("0\n")
    (system / "node" / "node0" / "meminfo").write_text(f"Node 0 MemTotal: {memory_kb} kB\n")
    (system / "cpu").mkdir()
    (system / "cpu" / "online").write_text(",".join(map(str, real)) + "\n")
    memory = folder / "meminfo"
    memory.write_text(re.sub(r"(?<=^MemTotal:)\s*\d+", f" {memory_kb}", Path("/proc/meminfo").read_text()))
    return {"/sys/devices/system": system, "/proc/meminfo": memory}


class Node:
    """A machine with a kubelet."""

    def __init__(
        self, name: str, folder: Path, *, programs: Path, size: Size, ports: Sequence[int], cgroup: str,
        kubeconfig: Path, ca: Path, kubelet: Mapping[str, object],
    ) -> None:  # fmt: skip
        """Write its files.

        Args:
            name: of the node.
            folder: of its own.
            programs: where kubelet and plugin lie.
            size: what it offers.
            ports: two free ones, for the kubelet and for containerd's streams.
            cgroup: name of its control group.
            kubeconfig: with which it speaks to the API server.
            ca: whose clients the kubelet lets in.
            kubelet: more of the kubelet's configuration.
        """
        self.name, self.folder, self.gpus, self.port, self.cgroup = name, folder, size.gpus, ports[0], cgroup
        shown = pretend(folder / "hardware", size.cpus, size.memory_bytes)
        self.machine = Machine(name, folder, binds=KEPT, scratch=SCRATCH, shown=shown)
        self.broken = folder / "broken-gpus"
        self._streams = ports[1]
        self._programs, self._kubeconfig = programs, kubeconfig
        (folder / "cni").mkdir(parents=True)
        (folder / "cni" / "tests.conflist").write_text(json.dumps(self._network()))
        (folder / "containerd.toml").write_text(
            CONTAINERD.format(
                socket=SOCKET, pause=images.PAUSE, stream_port=ports[1], cni_bin=cni_folder(), cni_conf=folder / "cni"
            )
        )
        (folder / "kubelet.yaml").write_text(yaml.safe_dump(kubelet_config(self.port, cgroup, ca, kubelet)))

    def boot(self) -> None:
        """Switch the machine on and start containerd."""
        make_cgroup(self.cgroup)
        self.machine.boot()
        self.machine.start("containerd", ["containerd", "--config", str(self.folder / "containerd.toml")])

    def has_containerd(self) -> bool:
        """Whether containerd serves kubelets: it listens for streams last, once it has recovered what was before.

        A kubelet that asks before that exits, and nothing here starts it again.
        """
        with contextlib.suppress(OSError, AssertionError):
            socket.create_connection(("127.0.0.1", self._streams), timeout=1.0).close()
            return "ok" in self.machine.run("ctr", "-a", SOCKET, "plugins", "ls", "id==cri")
        return False

    def import_image(self, archive: bytes) -> None:
        """Give it an image."""
        self.machine.run("ctr", "-a", SOCKET, "-n", "k8s.io", "images", "import", "-", stdin=archive)

    def join(self) -> None:
        """Start kubelet and plugin."""
        found = {**LABELS, "nvidia.com/gpu.count": str(self.gpus)} if self.gpus else {}
        labels = ",".join(f"{key}={value}" for key, value in found.items())
        self.machine.start("kubelet", [
            str(self._programs / "kubelet"), "--config", str(self.folder / "kubelet.yaml"), "--kubeconfig",
            str(self._kubeconfig), "--hostname-override", self.name, "--root-dir", "/var/lib/kubelet",
            # A kubelet refuses a loopback address of its own accord; of one in a cloud it is set from outside.
            "--cloud-provider", "external", "--node-labels", labels,
        ])  # fmt: skip
        if self.gpus:
            self.machine.start("plugin", [
                str(self._programs / "plugin"), "--prefix", f"GPU-{self.name}-", "--count", str(self.gpus), "--broken",
                str(self.broken),
            ])  # fmt: skip

    def power_off(self) -> None:
        """Take its power away: kubelet, containerd, containers and their networks are gone at once."""
        self.machine.power_off()
        remove_cgroups(self.cgroup)

    def break_gpus(self, *numbers: int) -> None:
        """Say which of its GPUs are broken; none makes all of them sound again."""
        self.broken.write_text("".join(f"GPU-{self.name}-{number}\n" for number in numbers))

    def _network(self) -> dict[str, object]:
        subnet = f"{network_of(self.port)}.0/24"
        addresses = {"type": "host-local", "subnet": subnet, "routes": [{"dst": "0.0.0.0/0"}]}
        plugins = [{"type": "ptp", "ipMasq": False, "ipam": {**addresses, "dataDir": "/var/lib/cni/networks"}}]
        return {"cniVersion": "0.4.0", "name": "tests", "plugins": plugins}
