"""The Slurm engine over a real cluster; its programs are the shell text of the local engine's tests."""

from __future__ import annotations

from pathlib import Path

from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.kit.clock import SystemClock
from tests.contract.test_local import LocalHarness
from tests.slurm.cluster import Cluster


class SlurmHarness(LocalHarness):
    """An engine with a work folder of the test's own."""

    def __init__(self, folder: Path, cluster: Cluster, **settings: object) -> None:
        self.folder, self.clock, self.cluster, self.node = folder, SystemClock(), cluster, cluster.nodes[0]
        self.set = {
            "work_dir": str(folder / "engine"), "conf": str(cluster.conf), "allow_root": True, "poll_s": 0.3,
            "facts_lag_s": 1.0, "watch_s": 0.05, "use_every_s": 0.3, **settings,
        }  # fmt: skip
        self.engine: SlurmEngine = self._new()  # type: ignore[assignment]

    def _new(self) -> SlurmEngine:  # type: ignore[override]
        return SlurmEngine(SlurmSettings(**self.set), clock=self.clock)  # type: ignore[arg-type]

    async def clean(self) -> None:
        """Stop whatever a test has left."""
        for key in await self.engine.attempts():
            await self.engine.cancel(key, grace_s=0.0)
        for key in await self.engine.attempts():
            await self.ended(key)
        for node in self.cluster.nodes:
            await self.engine.uncordon(node)
        await self.engine.close()
        self.cluster.wait("no jobs", lambda: not self.cluster.client("squeue", "-h", check=False).strip())
