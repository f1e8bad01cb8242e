"""What `dujiang doctor` tells of this machine: found by looking and trying, without a running platform."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dujiang.engines.local.engine import LocalEngine
from dujiang.kit.clock import SystemClock


def examine(home: Path) -> Mapping[str, Any]:
    """Return facts by part, and under `missing` one sentence for each thing that would make it better."""
    return asyncio.run(_examine(home))


async def _examine(home: Path) -> Mapping[str, Any]:
    engine = LocalEngine(home / "engine", clock=SystemClock())
    try:
        capabilities = await engine.capabilities()
        (node,) = await engine.inventory()
    finally:
        await engine.close()
    return {
        "machine": {
            "name": node.name, "system": platform.platform(terse=True), "python": sys.version.split()[0],
            "cpu_milli": node.cpu_milli, "memory_bytes": node.memory_bytes, "disk_bytes": node.disk_bytes,
            "ready": node.ready, "reason": node.reason or "-",
        },
        "limits": {"kept_by": capabilities.limits_by, "isolation": str(capabilities.limits)},
        "images": {"run_by": capabilities.images or "nothing"},
        "devices": [
            {
                "index": device.index, "name": device.name, "vendor": device.vendor, "model": device.model,
                "memory_bytes": device.memory_bytes, "healthy": device.healthy, "a_share_is": str(device.isolation),
            }
            for device in node.devices
        ],
        "home": _home(home),
        "missing": list(capabilities.missing),
    }  # fmt: skip


def _home(home: Path) -> dict[str, Any]:
    there = next((one for one in (home, *home.parents) if one.exists()), Path("/"))
    return {
        "folder": str(home), "exists": home.exists(), "writable": os.access(there, os.W_OK),
        "free_bytes": shutil.disk_usage(there).free,
    }  # fmt: skip
