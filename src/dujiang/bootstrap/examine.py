"""What `dujiang doctor` tells of this machine: found by looking and trying, without a running platform."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dujiang.bootstrap.clusters import check
from dujiang.bootstrap.examine_clusters import examine_clusters
from dujiang.bootstrap.home import PlatformHome
from dujiang.bootstrap.settings import Settings
from dujiang.engines.local.engine import LocalEngine
from dujiang.kit import settings as kit_settings
from dujiang.kit.clock import SystemClock


def examine(home: Path, environ: Mapping[str, str] = os.environ) -> Mapping[str, Any]:
    """Return facts by part, and under `missing` one sentence for each thing that would make it better."""
    return asyncio.run(_examine(home, environ))


async def _examine(home: Path, environ: Mapping[str, str]) -> Mapping[str, Any]:
    clock, place, wrong = SystemClock(), PlatformHome(home, home), list[str]()
    try:
        settings = kit_settings.load(Settings, file=place.settings_file, environ=environ, flags={})
        check(settings)
    except kit_settings.SettingsInvalid as error:
        settings, wrong = Settings(), error.problems
    clusters = await examine_clusters(place, settings, clock)
    kept = _home(home)
    cannot = [] if kept["writable"] else [f"the home folder {home} cannot be written to: set DUJIANG_HOME to another"]
    engine = LocalEngine(home / "engine", clock=clock, settings=settings.local)
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
        "home": kept,
        "settings": {"file": str(place.settings_file or "none"), "wrong": wrong},
        "clusters": clusters,
        "missing": [*wrong, *cannot, *capabilities.missing, *_lacks(clusters)],
    }  # fmt: skip


def _lacks(clusters: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is the matter with clusters and what to do, a sentence for each."""
    told: list[str] = []
    for one in clusters:
        if one["why"]:
            why = "; ".join(part for part in (one["why"].rstrip("."), one["advice"]) if part)
            told.append(f"cluster {one['name']} is {one['state']}: {why}")
        told += [f"cluster {one['name']}: {lack}" for lack in one["missing"]]
    return told


def _home(home: Path) -> dict[str, Any]:
    there = next((one for one in (home, *home.parents) if one.exists()), Path("/"))
    return {
        "folder": str(home), "exists": home.exists(), "writable": there.is_dir() and os.access(there, os.W_OK),
        "free_bytes": shutil.disk_usage(there).free,
    }  # fmt: skip
