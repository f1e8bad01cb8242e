"""A real Kubernetes of a scratch folder: etcd, API server, controllers, scheduler, and nodes that run containers.

By hand, as root: `python -m tests.kubernetes.cluster` starts one with two nodes, prints `KUBECONFIG=...`, stays until
Ctrl-C or SIGTERM, and leaves nothing behind; `--help` lists what can be chosen. In a test:

    with Cluster(tmp_path / "c", nodes=2) as cluster:
        cluster.kubectl("get", "nodes")
        cluster.stop("n1/kubelet")

Programs are named `etcd`, `api`, `controllers`, `scheduler`, `dns`, `kwok`, and for each node `n1/containerd`,
`n1/kubelet`, `n1/plugin`; what they print is in FOLDER/*/NAME.out. Each node says that it has the processors, memory
and GPUs of `Size`; containers see GPUs as NVIDIA_VISIBLE_DEVICES and as device files that are /dev/null. Pods of all
nodes reach each other by their addresses and, through headless Services, by their names. There is no kube-proxy, so
other Services have no address that works; and the API server, on the loopback interface, is reached from pods with
`hostNetwork` alone. Images are `images.BUSYBOX` and `images.HOST_PYTHON`. Several clusters may run at once. A kubelet
sets a few kernel settings of the whole system, as everywhere (vm.overcommit_memory, kernel.panic).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

from tests.kubernetes import fakes, images, parts
from tests.kubernetes.machine import (
    CGROUPS,
    Machine,
    free_ports,
    install,
    network_of,
    remove_cgroups,
    remove_stale_cgroups,
)
from tests.kubernetes.node import Node, Size
from tests.kubernetes.trust import ISSUER, Trust

WITHIN_S = 90.0
# Without fake nodes a lost one is seen at once; with them, not before their rare leases may be late.
GRACE_S, GRACE_WITH_FAKES_S = 8, fakes.LEASE_S + 40
SIZE = Size()
COREFILE = """\
cluster.local {{
  bind {address}
  errors
  kubernetes {{
    kubeconfig {kubeconfig}
    ttl 1
  }}
}}
. {{
  bind {address}
  template ANY ANY . {{
    rcode NXDOMAIN
  }}
}}
"""
_numbers = itertools.count(1)


class Cluster:
    """One cluster; a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 2,
        size: Size = SIZE,
        with_fakes: bool = False,
        flags: Mapping[str, Sequence[str]] | None = None,
        kubelet: Mapping[str, object] | None = None,
    ) -> None:
        """Choose; nothing starts yet.

        Args:
            folder: of its own, not there yet.
            nodes: real ones, n1 and on.
            size: what each real node offers.
            with_fakes: KWOK runs, so that `add_fake_nodes` has someone to let them live.
            flags: more command line flags of `etcd`, `api`, `controllers`, `scheduler`, `dns` or `kwok`.
            kubelet: more of each kubelet's configuration, such as {"containerLogMaxSize": "1Mi"}.
        """
        self.folder, self._size, self._with_fakes = folder.resolve(), size, with_fakes
        self._flags, self._kubelet = flags or {}, dict(kubelet or {})
        self._cgroup = f"{CGROUPS}{os.getpid()}-{next(_numbers)}-{secrets.token_hex(2)}"
        self._names = [f"n{number}" for number in range(1, nodes + 1)]
        self.nodes: dict[str, Node] = {}
        self._is_starting = True

    def __enter__(self) -> Cluster:
        install(containers=bool(self._names))
        self.programs = parts.build()
        remove_stale_cgroups()
        self._write()
        try:
            self._start()
            self._is_starting = False
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end()

    # Asking it

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True, user: str = "admin") -> str:
        """Run kubectl; returns what it prints.

        Raises:
            AssertionError: it failed, and that is checked.
        """
        command = [str(self.programs / "kubectl"), "--kubeconfig", str(self.kubeconfig(user))]
        command += ["--cache-dir", str(self.folder / "kubectl-cache"), *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *objects: Mapping[str, object]) -> None:
        """Create or change objects."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def kubeconfig(self, user: str = "admin", *, token: str | None = None, ca: str | None = "ca") -> Path:
        """Return a file for clients; see `Trust.kubeconfig`."""
        return self.trust.kubeconfig(user, token=token, ca=ca)

    def request(
        self, method: str, path: str, content: object = None, *, kind: str = "application/json", user: str = "admin"
    ) -> Any:
        """Ask the API server itself; returns its answer.

        Args:
            method: of HTTP.
            path: from the root, as /api/v1/nodes.
            content: sent as JSON.
            kind: media type of the content, as application/merge-patch+json.
            user: as whom.

        Raises:
            httpx.HTTPError: not reached, or refused.
        """
        headers = {"Authorization": f"Bearer {self.trust.tokens[user]}", "Content-Type": kind}
        body = None if content is None else json.dumps(content).encode()
        answer = self._http.request(method, path, content=body, headers=headers)
        if answer.is_error:
            raise httpx.HTTPStatusError(f"{method} {path}: {answer.text}", request=answer.request, response=answer)
        return answer.json() if answer.headers.get("content-type") == "application/json" else answer.text

    def wait(self, what: str, is_so: Callable[[], object], within_s: float = WITHIN_S) -> None:
        """Wait until something is so; an API server that is not reached says no."""
        deadline = time.monotonic() + within_s
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if is_so():
                    return
            if time.monotonic() > deadline or (self._is_starting and self.ended()):
                raise AssertionError(f"{what}: not so; ended by themselves: {self.ended()}\n{self.last_words()}")
            time.sleep(0.1)

    def pod(self, name: str, namespace: str = "default") -> Any:
        """Return a pod."""
        return self.request("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")

    def wait_for_phase(self, name: str, *phases: str, namespace: str = "default", within_s: float = WITHIN_S) -> Any:
        """Wait until a pod is in one of these phases; returns it."""
        what = f"pod {name} to be {' or '.join(phases)}"
        self.wait(what, lambda: self.pod(name, namespace)["status"]["phase"] in phases, within_s)
        return self.pod(name, namespace)

    def is_ready(self, node: str) -> bool:
        """Whether a node says that it is ready."""
        conditions = self.request("GET", f"/api/v1/nodes/{node}")["status"].get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def free_gpus(self, node: str) -> int:
        """Return how many sound GPUs a node offers."""
        allocatable = self.request("GET", f"/api/v1/nodes/{node}")["status"].get("allocatable", {})
        return int(allocatable.get("nvidia.com/gpu", 0))

    def ended(self) -> dict[str, int]:
        """Return the programs that ended by themselves, with their exit status."""
        found = self._control.ended()
        for name, node in self.nodes.items():
            found.update((f"{name}/{program}", status) for program, status in node.machine.ended().items())
        return found

    def last_words(self) -> str:
        """Return the end of what each program printed."""
        machines = [self._control, *(node.machine for node in self.nodes.values())]
        return "\n".join(machine.last_words() for machine in machines)

    # Changing it

    def namespace(self, name: str) -> None:
        """Make a namespace in which pods can be started at once."""
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        self._wait_for_account(name)

    def stop(self, program: str, number: int = signal.SIGTERM) -> None:
        """End a program."""
        machine, name = self._find(program)
        machine.stop(name, number)

    def kill(self, program: str) -> None:
        """End a program with SIGKILL."""
        self.stop(program, signal.SIGKILL)

    def start(self, program: str) -> None:
        """Start a program again; of the API server, wait until it answers."""
        machine, name = self._find(program)
        machine.start(name)
        if program == "api":
            self._wait_for_api()

    def run(self, name: str, words: Sequence[str]) -> None:
        """Run another program beside those of the control plane, which is named as they are."""
        self._control.start(name, words)

    def signal(self, program: str, number: int) -> None:
        """Send a program a signal: SIGSTOP makes it hang, SIGCONT go on."""
        machine, name = self._find(program)
        machine.signal(name, number)

    def power_off(self, node: str) -> None:
        """Take a node's power away."""
        self.nodes[node].power_off()

    def power_on(self, node: str) -> None:
        """Boot a node that was switched off."""
        self._boot(self.nodes[node])
        self.nodes[node].join()

    def import_image(self, archive: bytes) -> None:
        """Give an image, such as `images.busybox("mine:1")`, to all nodes."""
        for node in self.nodes.values():
            node.import_image(archive)

    def add_fake_nodes(self, count: int, gpus: int = 8, *, prefix: str = "fake", first: int = 0) -> list[str]:
        """Add nodes that KWOK lets live, and wait until they are ready; returns their names."""
        assert self._with_fakes, "this cluster has no KWOK"
        names = [f"{prefix}-{number:04}" for number in range(first, first + count)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda name: self.request("POST", "/api/v1/nodes", fakes.node(name, gpus)), names))
        self.wait("the fake nodes", lambda: set(names) <= set(self._ready_nodes()))
        return names

    def account_token(self, account: str = "default", namespace: str = "default", *, lives_s: float = 3600) -> str:
        """Return a token of a service account; with less than 0 seconds one that is over."""
        found = self.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}")
        return self.trust.account_token(namespace, account, found["metadata"]["uid"], lives_s=lives_s)

    # Starting and ending it

    def _write(self) -> None:
        self.folder.mkdir(parents=True)
        self._api_port, *ports = free_ports(5 + 2 * len(self._names))
        self._etcd_ports, self._other_ports = ports[:2], ports[2:4]
        self._dns_address = f"{network_of(self._api_port)}.1"
        self.url = f"https://127.0.0.1:{self._api_port}"
        self.trust = Trust(self.folder / "trust", self.url, self._names)
        context = ssl.create_default_context(cafile=str(self.folder / "trust" / "ca.crt"))
        self._http = httpx.Client(base_url=self.url, verify=context, timeout=30, trust_env=False)
        link = (f"dns{self._api_port}", self._dns_address) if self._names else None
        self._control = Machine("control", self.folder / "control", link=link)
        names = {"clusterDNS": [self._dns_address], "clusterDomain": "cluster.local"}
        for number, name in enumerate(self._names):
            self.nodes[name] = Node(
                name, self.folder / name, programs=self.programs, size=self._size, ports=ports[4 + 2 * number :][:2],
                cgroup=f"{self._cgroup}-{name}", kubeconfig=self.kubeconfig(f"system:node:{name}"),
                ca=self.folder / "trust" / "ca.crt", kubelet={**names, **self._kubelet},
            )  # fmt: skip

    def _start(self) -> None:
        self._control.boot()
        self._run("etcd", "server", *self._etcd_flags())
        self._run("api", "kube-apiserver", *self._api_flags())
        for node in self.nodes.values():
            self._boot(node)
        for node in self.nodes.values():
            for archive in (images.pause(), images.busybox(), images.host_python()):
                node.import_image(archive)
        self._wait_for_api()
        self._run("controllers", "kube-controller-manager", *self._controller_flags())
        self._run("scheduler", "kube-scheduler", *self._scheduler_flags())
        if self._names:
            self._run("dns", "dns", *self._dns_flags())
        if self._with_fakes:
            self._run("kwok", "kwok", *self._kwok_flags())
        for node in self.nodes.values():
            node.join()
        for name in self.nodes:
            self._introduce(name)
        self._wait_for_account("default")
        self.wait("the nodes", lambda: all(map(self._is_whole, self.nodes)))

    def _is_whole(self, name: str) -> bool:
        return self.is_ready(name) and self.free_gpus(name) == self._size.gpus

    def _end(self) -> None:
        for machine in (*(node.machine for node in self.nodes.values()), self._control):
            machine.power_off()
        remove_cgroups(f"{self._cgroup}-")
        self._http.close()

    def _run(self, name: str, program: str, *words: str) -> None:
        self._control.start(name, [str(self.programs / program), *words, *self._flags.get(name, ())])

    def _etcd_flags(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        return [
            "--name", "tests", "--data-dir", str(self.folder / "etcd"), "--listen-client-urls", client,
            "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"tests={peer}", "--unsafe-no-fsync",
        ]  # fmt: skip

    def _api_flags(self) -> list[str]:
        trust = self.folder / "trust"
        return [
            "--etcd-servers", f"http://127.0.0.1:{self._etcd_ports[0]}", "--bind-address", "127.0.0.1",
            "--advertise-address", "127.0.0.1", "--secure-port", str(self._api_port), "--tls-cert-file",
            f"{trust}/server.crt", "--tls-private-key-file", f"{trust}/server.key", "--client-ca-file",
            f"{trust}/ca.crt", "--token-auth-file", f"{trust}/tokens.csv", "--authorization-mode", "Node,RBAC",
            "--service-account-issuer", ISSUER, "--service-account-signing-key-file", f"{trust}/accounts.key",
            "--service-account-key-file", f"{trust}/accounts.key",
            "--service-cluster-ip-range", "10.0.0.0/24", "--endpoint-reconciler-type", "none",
            "--kubelet-client-certificate", f"{trust}/kubelet-client.crt", "--kubelet-client-key",
            f"{trust}/kubelet-client.key", "--kubelet-preferred-address-types", "InternalIP",
        ]  # fmt: skip

    def _controller_flags(self) -> list[str]:
        trust = self.folder / "trust"
        grace_s = GRACE_WITH_FAKES_S if self._with_fakes else GRACE_S
        return [
            "--kubeconfig", str(self.kubeconfig("system:kube-controller-manager")), "--use-service-account-credentials",
            "--leader-elect=false", "--controllers=*,-nodeipam", "--service-account-private-key-file",
            f"{trust}/accounts.key", "--root-ca-file", f"{trust}/ca.crt", "--bind-address", "127.0.0.1",
            "--secure-port", str(self._other_ports[0]), "--cert-dir", str(self.folder / "control"),
            "--node-monitor-period", "1s",
            "--node-monitor-grace-period", f"{grace_s}s", "--kube-api-qps", "1000", "--kube-api-burst", "2000",
        ]  # fmt: skip

    def _scheduler_flags(self) -> list[str]:
        config = self.folder / "control" / "scheduler.yaml"
        connection = {"kubeconfig": str(self.kubeconfig("system:kube-scheduler")), "qps": 5000, "burst": 10000}
        config.write_text(
            yaml.safe_dump({
                "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
                "clientConnection": connection, "leaderElection": {"leaderElect": False},
            })
        )  # fmt: skip
        ports = ["--bind-address", "127.0.0.1", "--secure-port", str(self._other_ports[1])]
        return ["--config", str(config), *ports, "--cert-dir", str(self.folder / "control")]

    def _dns_flags(self) -> list[str]:
        corefile = self.folder / "control" / "Corefile"
        corefile.write_text(COREFILE.format(address=self._dns_address, kubeconfig=self.kubeconfig()))
        return ["-conf", str(corefile)]

    def _kwok_flags(self) -> list[str]:
        stages = fakes.write_stages(self.programs, self.folder / "control")
        marks = ",".join(f"{key}={value}" for key, value in fakes.MARK.items())
        return [
            "--kubeconfig", str(self.kubeconfig()), "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector", marks, "--node-lease-duration-seconds", str(fakes.LEASE_S),
            *itertools.chain.from_iterable(("--config", str(path)) for path in stages),
        ]  # fmt: skip

    def _boot(self, node: Node) -> None:
        node.boot()
        self.wait(f"containerd of {node.name}", node.has_containerd)

    def _introduce(self, name: str) -> None:
        """Tell of a node what its cloud would tell: the address, and that it is known."""
        path = f"/api/v1/nodes/{name}"
        self.wait(f"node {name} to register", lambda: self.request("GET", path))
        addresses = [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}]
        kind = "application/merge-patch+json"
        self.request("PATCH", f"{path}/status", {"status": {"addresses": addresses}}, kind=kind)
        self.kubectl("taint", "node", name, "node.cloudprovider.kubernetes.io/uninitialized-", check=False)

    def _wait_for_api(self) -> None:
        self.wait("the API server", lambda: self.request("GET", "/readyz") == "ok")

    def _wait_for_account(self, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        self.wait(f"the service account of {namespace}", lambda: self.request("GET", path))

    def _ready_nodes(self) -> Iterator[str]:
        for node in self.request("GET", "/api/v1/nodes?resourceVersion=0")["items"]:
            for condition in node["status"].get("conditions", []):
                if condition["type"] == "Ready" and condition["status"] == "True":
                    yield node["metadata"]["name"]

    def _find(self, program: str) -> tuple[Machine, str]:
        node, _, name = program.rpartition("/")
        return (self.nodes[node].machine if node else self._control), name


def main() -> None:
    """Start a cluster and stay."""
    reader = argparse.ArgumentParser(
        prog="python -m tests.kubernetes.cluster", description="Start a Kubernetes and stay."
    )
    reader.add_argument("--nodes", type=int, default=2, help="real nodes (default 2)")
    reader.add_argument("--gpus", type=int, default=4, help="GPUs that each real node offers (default 4)")
    reader.add_argument("--fakes", type=int, default=0, help="fake nodes of eight GPUs (default none)")
    reader.add_argument("--folder", type=Path, help="not there yet; kept at the end (default one that is removed)")
    asked = reader.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="kubernetes-")) / "c"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with contextlib.suppress(KeyboardInterrupt), Cluster(
            folder, nodes=asked.nodes, size=Size(gpus=asked.gpus), with_fakes=asked.fakes > 0
        ) as cluster:  # fmt: skip
            if asked.fakes:
                cluster.add_fake_nodes(asked.fakes)
            print(f"KUBECONFIG={cluster.kubeconfig()}\nPATH={cluster.programs}:$PATH", flush=True)  # noqa: T201
            signal.pause()
    finally:
        if not asked.folder:
            shutil.rmtree(folder.parent, ignore_errors=True)


if __name__ == "__main__":
    main()
