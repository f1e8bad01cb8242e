"""What of this machine work may use: cores, memory, disk, devices, less what is kept back.

Cores and memory are what the platform's own limit groups leave of the machine, so that a platform in a container
promises no more than the container has.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
from pathlib import Path

from dujiang.engines.contract import DeviceFacts, Isolation, NodeFacts
from dujiang.engines.local.discovery import Mounts, read_mounts
from dujiang.engines.local.limits import read
from dujiang.engines.local.nvml import Nvml
from dujiang.engines.local.settings import LocalSettings


class Inventory:
    """The one node of the local engine."""

    def __init__(self, home: Path, settings: LocalSettings) -> None:
        self._home, self._settings = home, settings
        self.nvml = Nvml()
        self.name = settings.node_name or socket.gethostname()
        self._disk_bytes: int | None = None

    def mps_pipe_dir(self) -> str | None:
        """Return where an MPS daemon listens, None when none does."""
        folder = self._settings.mps_pipe_dir or Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps")
        try:
            pid = int((folder / "nvidia-cuda-mps-control.pid").read_text())
            os.kill(pid, 0)
        except PermissionError:
            return str(folder)  # it lives, as another user
        except (OSError, ValueError):
            return None
        return str(folder) if (folder / "control").exists() else None

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return the accelerators, each with what a share of it gets."""
        return self.nvml.scan(Isolation.ENFORCED if self.mps_pipe_dir() else Isolation.COUNTED_ONLY)

    def node(self, *, cordoned_because: str | None) -> NodeFacts:
        """Return the node as it is now."""
        settings, mounts = self._settings, read_mounts()
        free_disk = self._free_disk()
        if self._disk_bytes is None:  # once: what jobs write later is theirs, not a smaller machine
            self._disk_bytes = max(0, free_disk - settings.reserve_disk_bytes)
        full = free_disk < settings.reserve_disk_bytes // 10
        reason = f"only {free_disk >> 20} MiB are free under {self._home}" if full else cordoned_because or ""
        return NodeFacts(
            name=self.name,
            cpu_milli=max(0, usable_cpu_milli(mounts) - settings.reserve_cpu_milli),
            memory_bytes=max(0, usable_memory_bytes(mounts) - settings.reserve_memory_bytes),
            disk_bytes=self._disk_bytes,
            devices=self.devices(),
            ready=not full,
            cordoned=cordoned_because is not None,
            reason=reason,
            labels={
                "arch": platform.machine(), "os": platform.system().lower(), "kernel": platform.release(),
                **settings.labels,
            },
        )  # fmt: skip

    def _free_disk(self) -> int:
        place = self._home
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free


def usable_cpu_milli(mounts: Mounts) -> int:
    """Return the cores this process may run on, in thousandths, within the quotas of its limit groups."""
    usable = len(os.sched_getaffinity(0)) * 1000
    for group in _own_groups(mounts, "cpu"):
        with contextlib.suppress(OSError, ValueError):
            quota, period = read(f"{group}/cpu.max").split()
            usable = min(usable, int(quota) * 1000 // int(period))
        with contextlib.suppress(OSError, ValueError):
            quota, period = read(f"{group}/cpu.cfs_quota_us"), read(f"{group}/cpu.cfs_period_us")
            if int(quota) > 0:
                usable = min(usable, int(quota) * 1000 // int(period))
    return usable


def usable_memory_bytes(mounts: Mounts) -> int:
    """Return the memory of the machine within the limits of this process's limit groups."""
    usable = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for group in _own_groups(mounts, "memory"):
        for file in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                usable = min(usable, int(read(f"{group}/{file}")))
    return usable


def _own_groups(mounts: Mounts, controller: str) -> list[str]:
    """Return the folders of this process's groups, from its own up to the top, in whichever hierarchy has them."""
    found: list[str] = []
    for mount, own in (
        (mounts.v2, mounts.own.get("", "/")),
        (mounts.v1.get(controller), mounts.own.get(controller, "/")),
    ):
        if mount is not None:
            below = [part for part in own.split("/") if part]
            found += ["/".join((mount, *below[:depth])) for depth in range(len(below), -1, -1)]
    return found
