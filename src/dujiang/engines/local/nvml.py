"""The NVIDIA devices of this machine as NVML reports them, their health with it. A machine without NVML is normal.

MIG: a device in MIG mode cannot run work as a whole, so its instances stand in for it, each isolated by the hardware.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from dujiang.engines.contract import DeviceFacts, Isolation

VENDOR = "nvidia"


class Nvml:
    """The library, loaded on first use and asked again for everything at each scan."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = False
        self._seen: dict[int, DeviceFacts] = {}
        self.missing = ""
        """Why there are no devices, empty when there are; set by `scan`."""

    def scan(self, fraction: Isolation) -> tuple[DeviceFacts, ...]:
        """Return every device, in the driver's order; what a device does not tell is left out.

        Args:
            fraction: what a share of a device gets here.
        """
        with self._lock:
            try:
                import pynvml  # only where asked for: a machine without NVIDIA never loads it
            except ImportError:
                self.missing = "the NVML bindings are not installed"
                return ()
            try:
                if not self._ready:
                    pynvml.nvmlInit()
                    self._ready = True
                found = tuple(_devices(pynvml, fraction, self._seen))
            except pynvml.NVMLError as error:
                self._ready = False  # a driver that was reloaded must be opened anew
                self.missing = f"no NVIDIA devices: {error}"
                return ()
            self.missing = "" if found else "the NVIDIA driver reports no device"
            return found

    def close(self) -> None:
        """Let go of the driver."""
        with self._lock:
            if self._ready:
                import pynvml

                with contextlib.suppress(pynvml.NVMLError):
                    pynvml.nvmlShutdown()
                self._ready = False


def _devices(nvml: Any, fraction: Isolation, seen: dict[int, DeviceFacts]) -> Iterator[DeviceFacts]:
    labels = {"driver": _text(_ask(nvml, nvml.nvmlSystemGetDriverVersion))}
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            whole = seen[index] = _device(nvml, handle, index, fraction, labels)
        except nvml.NVMLError as error:  # fallen off the bus: it keeps its place and name, and answers nothing
            unknown = DeviceFacts(f"{VENDOR}-{index}", index, VENDOR, "unknown", 0)
            yield replace(seen.get(index, unknown), healthy=False, labels={**labels, "fault": str(error)})
            continue
        instances = list(_instances(nvml, handle, whole)) if whole.labels.get("mig") == "enabled" else []
        yield from instances or [whole]


def _device(nvml: Any, handle: Any, index: int, fraction: Isolation, shared: dict[str, str]) -> DeviceFacts:
    memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    faults = _faults(nvml, handle)
    mig = _ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    pci = _ask(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    labels = dict(shared)
    labels["mig"] = "unsupported" if mig is None else ("enabled" if mig[0] else "disabled")
    if pci is not None:
        labels["pci"] = _text(pci.busId)
    if faults:
        labels["fault"] = "; ".join(faults)
    return DeviceFacts(
        name=_text(_ask(nvml, nvml.nvmlDeviceGetUUID, handle)) or f"{VENDOR}-{index}",
        index=index,
        vendor=VENDOR,
        model=_text(_ask(nvml, nvml.nvmlDeviceGetName, handle)) or "unknown",
        memory_bytes=int(memory.total) if memory is not None else 0,
        healthy=not faults,
        isolation=fraction,
        labels=labels,
    )


def _instances(nvml: Any, handle: Any, whole: DeviceFacts) -> Iterator[DeviceFacts]:
    for nth in range(_ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, nth)
        if part is None:
            continue
        memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, part)
        yield DeviceFacts(
            name=_text(_ask(nvml, nvml.nvmlDeviceGetUUID, part)),
            index=whole.index * 100 + nth,
            vendor=VENDOR,
            model=_text(_ask(nvml, nvml.nvmlDeviceGetName, part)) or whole.model,
            memory_bytes=int(memory.total) if memory is not None else 0,
            healthy=whole.healthy,
            isolation=Isolation.COUNTED_ONLY,
            labels={**whole.labels, "mig": "instance", "mig_parent": whole.name},
        )


def _faults(nvml: Any, handle: Any) -> list[str]:
    """Say what makes a device unfit for work: memory errors that were not corrected, a repair that failed or waits."""
    faults = []
    uncorrected = _ask(
        nvml,
        nvml.nvmlDeviceGetTotalEccErrors,
        handle,
        nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        nvml.NVML_VOLATILE_ECC,
    )
    if uncorrected:
        faults.append(f"{uncorrected} uncorrected memory errors since the driver was loaded")
    rows = _ask(nvml, nvml.nvmlDeviceGetRemappedRows, handle)
    if rows is not None:
        if rows[3]:
            faults.append("remapping a memory row failed")
        elif rows[2]:
            faults.append("a memory row waits for the next reset to be remapped")
    if _ask(nvml, nvml.nvmlDeviceGetRetiredPagesPendingStatus, handle):
        faults.append("memory pages wait for the next restart to be retired")
    return faults


def _ask(nvml: Any, question: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer, None where this device or driver does not give one.

    Raises:
        NVMLError: the device or the driver is gone.
    """
    try:
        return question(*arguments)
    except (nvml.NVMLError_GpuIsLost, nvml.NVMLError_Uninitialized, nvml.NVMLError_DriverNotLoaded):
        raise
    except nvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
