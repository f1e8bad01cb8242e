"""The local engine with every job in an image; its programs are the shell text of the local engine's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dujiang.engines.contract import Launch
from dujiang.engines.local.engine import LocalEngine
from dujiang.engines.local.settings import LocalSettings
from dujiang.kit.clock import SystemClock
from tests.containers.images import PYTHON
from tests.containers.runtimes import Store
from tests.contract.harness import Grows, Program
from tests.contract.test_local import LocalHarness


class ImageHarness(LocalHarness):
    """An engine that has one runtime, and shows the test's folder in every image."""

    def __init__(self, folder: Path, store: Store, *, image: str = PYTHON, **settings: Any) -> None:
        self.folder, self.clock, self.store, self.image = folder, SystemClock(), store, image
        self.settings = LocalSettings(
            **{
                "node_name": "here", "reserve_memory_bytes": 0, "container_runtime": store.name,
                "container_options": store.options, "container_mounts": (str(folder),), **settings,
            }
        )  # fmt: skip
        self.node = "here"
        self.engine: LocalEngine = self._new()

    def launch_text(self, text: str, **fields: Any) -> Launch:
        return super().launch_text(text, **{"image": self.image, **fields})

    def body(self, program: Program) -> str:
        if isinstance(program, Grows):
            return "exec python3 -c 'x = bytearray(400 << 20)'"
        return super().body(program)

    async def clean(self) -> None:
        """Stop whatever a test has left, and see that nothing outlives it, no container either."""
        await super().clean()
        assert self.store.containers() == []
