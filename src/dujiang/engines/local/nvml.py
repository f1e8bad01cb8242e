"""The NVIDIA devices of this machine as NVML reports them, their health with it. A machine without NVML is normal.

MIG: a device in MIG mode cannot run work as a whole, so its instances stand in for it, each isolated by the hardware.
A name is what CUDA_VISIBLE_DEVICES takes, so it is always a UUID but for a device that never said one, which is unfit.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from dujiang.engines.contract import DeviceFacts, Isolation

VENDOR = "nvidia"


class Nvml:
    """The library, loaded on first use and asked again for everything at each scan."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = False
        self._seen: dict[int, tuple[DeviceFacts, ...]] = {}
        self._looked_us: dict[int, int] = {}
        self.missing = ""
        """Why there are no devices, empty when there are; set by `scan`."""

    @property
    def is_away(self) -> bool:
        """Say whether there were devices at an earlier scan and the driver does not answer any more."""
        return bool(self.missing and self._seen)

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

    def busy(self, wanted: Mapping[int, Sequence[Set[int]]]) -> dict[int, list[float | None]]:
        """Return for which part of the time devices computed, 0 to 1, since the last look or over the last second.

        Args:
            wanted: by index of the device, for each share of it the processes that have it; an empty set is the whole
                device, whoever uses it.

        Returns:
            In the same order; None where the driver does not tell, as of instances of a device in MIG mode.
        """
        with self._lock:
            if not self._ready:
                return {index: [None] * len(shares) for index, shares in wanted.items()}
            import pynvml

            found: dict[int, list[float | None]] = {}
            for index, shares in wanted.items():
                try:
                    found[index] = self._busy(pynvml, index, shares)
                except pynvml.NVMLError:
                    found[index] = [None] * len(shares)
            return found

    def _busy(self, nvml: Any, index: int, shares: Sequence[Set[int]]) -> list[float | None]:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        rates = _ask(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
        whole = None if rates is None else rates.gpu / 100
        if not any(shares):
            return [whole] * len(shares)
        samples = self._samples(nvml, index, handle)
        return [whole if not pids else _of_processes(samples, pids) for pids in shares]

    def _samples(self, nvml: Any, index: int, handle: Any) -> dict[int, list[float]] | None:
        """Return what each process used since the last look, sample by sample; None where that is not told."""
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(handle, self._looked_us.get(index, 0))
        except nvml.NVMLError_NotFound:  # nobody computed
            return {}
        except nvml.NVMLError:
            return None
        by_process: dict[int, list[float]] = {}
        for one in samples:
            if one.timeStamp:
                by_process.setdefault(int(one.pid), []).append(one.smUtil / 100)
                self._looked_us[index] = max(self._looked_us.get(index, 0), int(one.timeStamp))
        return by_process

    def close(self) -> None:
        """Let go of the driver."""
        with self._lock:
            if self._ready:
                import pynvml

                with contextlib.suppress(pynvml.NVMLError):
                    pynvml.nvmlShutdown()
                self._ready = False


def _devices(nvml: Any, fraction: Isolation, seen: dict[int, tuple[DeviceFacts, ...]]) -> Iterator[DeviceFacts]:
    shared = {"driver": _text(_ask(nvml, nvml.nvmlSystemGetDriverVersion))}
    answers: list[tuple[DeviceFacts, ...] | str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            answers.append(_device(nvml, nvml.nvmlDeviceGetHandleByIndex(index), index, fraction, shared))
        except (nvml.NVMLError_Uninitialized, nvml.NVMLError_DriverNotLoaded):
            raise
        except nvml.NVMLError as error:
            answers.append(str(error))
    listed = {device.name for answer in answers if not isinstance(answer, str) for device in answer}
    for index, answer in enumerate(answers):
        if not isinstance(answer, str):
            seen[index] = answer
            yield from answer
            continue
        # Fallen off the bus: it keeps its place and name, and answers nothing. Where a reloaded driver has since given
        # its place to another device, it has no name any more.
        known = seen.get(index, ())
        if not known or any(device.name in listed for device in known):
            known = (DeviceFacts(f"{VENDOR}-{index}", index, VENDOR, "unknown", 0, labels=shared),)
        for device in known:
            yield replace(device, healthy=False, labels={**device.labels, "fault": answer})


def _device(
    nvml: Any, handle: Any, index: int, fraction: Isolation, shared: Mapping[str, str]
) -> tuple[DeviceFacts, ...]:
    """Return the device, or the instances that stand in for it.

    Raises:
        NVMLError: the device does not even say who it is, or is lost.
    """
    # Not asked by `_ask`: a device under another name would be another device, and its share given out twice.
    uuid, memory_bytes = _text(nvml.nvmlDeviceGetUUID(handle)), _memory_bytes(nvml, handle)
    faults = _faults(nvml, handle)
    mig = _ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    pci = _ask(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    labels = dict(shared)
    labels["mig"] = "unsupported" if mig is None else ("enabled" if mig[0] else "disabled")
    if pci is not None:
        labels["pci"] = _text(pci.busId)
    whole = DeviceFacts(
        name=uuid,
        index=index,
        vendor=VENDOR,
        model=_text(_ask(nvml, nvml.nvmlDeviceGetName, handle)) or "unknown",
        memory_bytes=memory_bytes,
        healthy=not faults,
        isolation=fraction,
        labels=labels | ({"fault": "; ".join(faults)} if faults else {}),
    )
    if labels["mig"] != "enabled":
        return (whole,)
    empty = "MIG is on and there is no instance: make some (nvidia-smi mig -cgi), or switch MIG off"
    return tuple(_instances(nvml, handle, whole)) or (
        replace(whole, healthy=False, labels={**whole.labels, "fault": "; ".join([*faults, empty])}),
    )


def _instances(nvml: Any, handle: Any, whole: DeviceFacts) -> Iterator[DeviceFacts]:
    for nth in range(_ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, nth)
        if part is None:
            continue
        yield DeviceFacts(
            name=_text(nvml.nvmlDeviceGetUUID(part)),
            index=whole.index * 100 + nth,
            vendor=VENDOR,
            model=_text(_ask(nvml, nvml.nvmlDeviceGetName, part)) or whole.model,
            memory_bytes=_memory_bytes(nvml, part),
            healthy=whole.healthy,
            isolation=Isolation.COUNTED_ONLY,
            labels={**whole.labels, "mig": "instance", "mig_parent": whole.name},
        )


def _of_processes(samples: Mapping[int, Sequence[float]] | None, pids: Set[int]) -> float | None:
    """Return what some processes used; None where the driver counts processes by other numbers than this machine."""
    if samples is None or any(not os.path.exists(f"/proc/{pid}") for pid in samples.keys() - pids):
        return None
    return min(1.0, sum(sum(samples[pid]) / len(samples[pid]) for pid in sorted(pids & samples.keys())))


def _memory_bytes(nvml: Any, handle: Any) -> int:
    """Return the device's own memory, 0 where it shares the machine's."""
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError_NotSupported:
        return 0


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
    except (
        nvml.NVMLError_GpuIsLost,
        nvml.NVMLError_ResetRequired,
        nvml.NVMLError_Uninitialized,
        nvml.NVMLError_DriverNotLoaded,
    ):
        raise
    except nvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
