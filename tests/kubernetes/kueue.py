"""A real Kueue beside a test cluster: an ordinary process on the loopback interface, with its kinds and webhooks.

    with Kueue(cluster) as kueue:
        kueue.flavor("any", {})
        kueue.cluster_queue("ours", any={"cpu": "2", "memory": "4Gi"})
        kueue.local_queue("a-namespace", "ours")

Queues are those of Kueue: a ClusterQueue holds a quota, a LocalQueue of the same name leads to it from one namespace.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx
import yaml

from tests.kubernetes import parts
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.machine import free_ports, path_of

API = "/apis/kueue.x-k8s.io/v1beta2"
HOME = "kueue-system"
SERVICE, SECRET = "kueue-webhook-service", "kueue-webhook-server-cert"
# Kueue looks whether what it serves with is of these names, and lasts, and makes another certificate where it is not.
CA_NAMES = "subjectAltName=DNS:kueue-ca\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"
NAMES = f"subjectAltName=DNS:{SERVICE}.{HOME}.svc,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"
CONVERTED = frozenset({"clusterqueues", "cohorts", "localqueues", "multikueueclusters", "workloads"})
OURS = ("kueue-x-k8s-io", "--v1-pod")
"""In the paths of the webhooks that are wanted: those of Kueue's own kinds and of Pods."""


class Kueue:
    """One Kueue; a context manager. Its kinds stay in the cluster when it ends."""

    def __init__(self, cluster: Cluster) -> None:
        """Start nothing yet."""
        self.cluster = cluster
        self._folder = cluster.folder / "kueue"

    def __enter__(self) -> Kueue:
        self._programs = parts.build_kueue()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        self._webhook, self._health, metrics = free_ports(3)
        self._certify()
        self.cluster.namespace(HOME)
        self._introduce()
        self._start(metrics)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.cluster.stop("kueue")

    # -- queues -------------------------------------------------------------------------------------------------------

    def flavor(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a ResourceFlavor: nodes with these labels."""
        self._make("resourceflavors", "ResourceFlavor", name, {"nodeLabels": dict(labels)})

    def cluster_queue(self, name: str, **flavors: Mapping[str, str]) -> None:
        """Make a ClusterQueue that all namespaces may use, in which higher priority preempts lower.

        Args:
            name: of it.
            flavors: what it may give of each flavor, such as `{"cpu": "2"}`; in this order they are tried.
        """
        resources = list(next(iter(flavors.values())))
        quotas = [
            {"name": flavor, "resources": [{"name": name, "nominalQuota": quota} for name, quota in amounts.items()]}
            for flavor, amounts in flavors.items()
        ]
        spec = {
            "namespaceSelector": {}, "resourceGroups": [{"coveredResources": resources, "flavors": quotas}],
            "preemption": {"withinClusterQueue": "LowerPriority"},
        }  # fmt: skip
        self._make("clusterqueues", "ClusterQueue", name, spec)

    def local_queue(self, namespace: str, name: str) -> None:
        """Make a LocalQueue that leads to the ClusterQueue of its name."""
        self._make(f"namespaces/{namespace}/localqueues", "LocalQueue", name, {"clusterQueue": name})

    def priority(self, name: str, value: int) -> None:
        """Make a WorkloadPriorityClass."""
        body = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "WorkloadPriorityClass", "metadata": {"name": name}}
        self.cluster.request("POST", f"{API}/workloadpriorityclasses", {**body, "value": value})

    def workloads(self, namespace: str) -> list[Any]:
        """Return the Workloads of a namespace."""
        found: list[Any] = self.cluster.request("GET", f"{API}/namespaces/{namespace}/workloads")["items"]
        return found

    def _make(self, path: str, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        body = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.cluster.request("POST", f"{API}/{path}", body)

    # -- starting it --------------------------------------------------------------------------------------------------

    def _start(self, metrics: int) -> None:
        config = {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2", "kind": "Configuration", "namespace": HOME,
            "health": {"healthProbeBindAddress": f"127.0.0.1:{self._health}"},
            "metrics": {"bindAddress": f"127.0.0.1:{metrics}"},
            "webhook": {"host": "127.0.0.1", "port": self._webhook, "certDir": str(self._folder)},
            "leaderElection": {"leaderElect": False}, "internalCertManagement": {"enable": True},
            "integrations": {"frameworks": ["pod"]},
        }  # fmt: skip
        (self._folder / "config.yaml").write_text(yaml.safe_dump(config))
        words = [
            str(self._programs / "kueue"), f"--kubeconfig={self.cluster.kubeconfig()}", "--zap-log-level=2",
            f"--config={self._folder / 'config.yaml'}", "--feature-gates=VisibilityOnDemand=false",
        ]  # fmt: skip
        self.cluster.run("kueue", words)
        self.wait()

    def wait(self) -> None:
        """Wait until it answers webhooks."""

        def is_ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{self._health}/readyz", trust_env=False).is_success
            return False

        self.cluster.wait("Kueue", is_ready)

    def _certify(self) -> None:
        """Make a certificate of an authority of its own, both as Kueue would make them but for the address."""
        for name, subject, names in (("ca", "/CN=kueue-ca", CA_NAMES), ("tls", f"/CN={SERVICE}", NAMES)):
            (self._folder / f"{name}.ext").write_text(names)
            self._openssl("genrsa", "-traditional", "-out", f"{name}.key", "2048")
            self._openssl("req", "-new", "-key", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
            signer = (
                ["-signkey", "ca.key"] if name == "ca" else ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
            )
            words = ["-in", f"{name}.csr", "-out", f"{name}.crt", "-extfile", f"{name}.ext", "-days", "400"]
            self._openssl("x509", "-req", *words, *signer)

    def _openssl(self, *words: str) -> None:
        subprocess.run([path_of("openssl"), *words], cwd=self._folder, capture_output=True, check=True)

    def _introduce(self) -> None:
        """Tell the cluster of Kueue's kinds, its certificate, and where its webhooks are."""
        core = f"/api/v1/namespaces/{HOME}/secrets"
        held = {name: self._encoded(name) for name in ("ca.crt", "ca.key", "tls.crt", "tls.key")}
        self.cluster.request("POST", core, {"metadata": {"name": SECRET}, "data": held})
        for path in sorted((self._programs / "crd").glob("*.yaml")):
            kind = yaml.safe_load(path.read_text())
            if kind["spec"]["names"]["plural"] in CONVERTED:
                hook = {"clientConfig": self._client("/convert"), "conversionReviewVersions": ["v1"]}
                kind["spec"]["conversion"] = {"strategy": "Webhook", "webhook": hook}
            self.cluster.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", kind)
        for hooks in filter(None, yaml.safe_load_all((self._programs / "webhooks.yaml").read_text())):
            self._hook(hooks)

    def _hook(self, hooks: dict[str, Any]) -> None:
        found = [hook for hook in hooks["webhooks"] if any(word in _path_of(hook) for word in OURS)]
        for hook in found:
            hook["clientConfig"] = self._client(_path_of(hook))
            if "--v1-pod" in hook["clientConfig"]["url"]:
                apart = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", HOME]}
                hook["namespaceSelector"] = {"matchExpressions": [apart]}
        plural = f"{hooks['kind'].lower()}s"
        hooks |= {"webhooks": found, "metadata": {"name": f"kueue-{hooks['metadata']['name']}"}}
        self.cluster.request("POST", f"/apis/admissionregistration.k8s.io/v1/{plural}", hooks)

    def _client(self, path: str) -> dict[str, str]:
        return {"url": f"https://127.0.0.1:{self._webhook}{path}", "caBundle": self._encoded("ca.crt")}

    def _encoded(self, name: str) -> str:
        return base64.b64encode((self._folder / name).read_bytes()).decode()


def _path_of(hook: Mapping[str, Any]) -> str:
    config = hook["clientConfig"]
    return str(config["service"]["path"])
