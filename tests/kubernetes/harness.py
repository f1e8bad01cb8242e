"""The Kubernetes engine over a real cluster; its programs are the shell text of the local engine's tests."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import dujiang.engines.kubernetes
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.engine import KubernetesEngine
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import SystemClock
from tests.contract.harness import Grows, Program
from tests.contract.test_local import LocalHarness
from tests.kubernetes import images
from tests.kubernetes.cluster import Cluster

MANIFEST = Path(dujiang.engines.kubernetes.__file__).parent / "manifest" / "rbac.yaml"


class KubernetesHarness(LocalHarness):
    """An engine with namespaces of the test's own; the test's folder is there in every Pod under the same path."""

    def __init__(
        self, folder: Path, cluster: Cluster, *, image: str = images.BUSYBOX, node: str = "", **settings: Any
    ) -> None:
        self.folder, self.clock, self.cluster = folder, SystemClock(), cluster
        self.node = node or next(iter(cluster.nodes))
        self.mark = f"test-{secrets.token_hex(4)}"
        self.reads_outputs = "work_dir" in settings
        volumes = {str(folder): {"hostPath": {"path": str(folder)}}}
        if image == images.HOST_PYTHON:
            volumes |= {
                str(path): {"hostPath": {"path": str(path)}, "readOnly": True} for path in images.host_folders()
            }
        self.set = {
            "kubeconfig": str(cluster.kubeconfig()), "namespace_prefix": f"{self.mark}-", "image": image,
            "volumes": volumes, "watch_s": 0.05, "isolate": False, **settings,
        }  # fmt: skip
        self.engine: KubernetesEngine = self._new()  # type: ignore[assignment]

    def _new(self) -> KubernetesEngine:  # type: ignore[override]
        return self.another()

    def another(self, api: Api | None = None, **settings: Any) -> KubernetesEngine:
        """Return a second engine of the same platform over the same cluster."""
        chosen = KubernetesSettings(**{**self.set, **settings})
        return KubernetesEngine(chosen, clock=self.clock, archive=self.folder / "archive", mark=self.mark, api=api)

    async def confine(self) -> None:
        """Let the engine have the rights of the manifest that comes with it, and no more."""
        self.cluster.kubectl("apply", "-f", str(MANIFEST))
        self.set["kubeconfig"] = str(self.cluster.kubeconfig(token=self.cluster.account_token("dujiang", "dujiang")))
        await self.restart()

    @property
    def namespace(self) -> str:
        """Where the attempts of these tests are."""
        return f"{self.mark}-a-project"

    def body(self, program: Program) -> str:
        if isinstance(program, Grows):
            return "exec tail /dev/zero"
        return super().body(program)

    async def clean(self) -> None:
        """Stop whatever a test has left, and see that nothing of it stays."""
        for key in await self.engine.attempts():
            await self.engine.cancel(key, grace_s=0.0)
        for key in await self.engine.attempts():
            await self.ended(key)
            await self.engine.forget(key)
        for node in self.cluster.nodes:
            await self.engine.uncordon(node)
        await self.engine.close()
        ours = ("get", "pods,secrets,services", "-A", "-o", "name", "-l", f"dujiang.io/mark={self.mark}")
        self.cluster.wait("nothing of it to be left", lambda: not self.cluster.kubectl(*ours))
        self.cluster.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")
