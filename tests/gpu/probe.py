"""What a program sees of the GPUs, asked of the driver alone: no CUDA toolkit and no framework is needed.

    python probe.py [MIB...]        (tries to allocate so much on the first device, one after the other)

Prints one JSON object; numbers named `error` are CUDA's, 0 is success, 2 out of memory, 100 no device.
"""

import ctypes
import json
import sys

MULTIPROCESSORS = 16
cuda = ctypes.CDLL("libcuda.so.1")


def main() -> None:
    """Ask and tell."""
    seen = {"error": cuda.cuInit(0), "devices": [], "allocations": []}
    count = ctypes.c_int(0)
    if seen["error"] == 0:
        must("cuDeviceGetCount", ctypes.byref(count))
    for index in range(count.value):
        device, number, uuid = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
        must("cuDeviceGet", ctypes.byref(device), index)
        must("cuDeviceGetUuid_v2", uuid, device)
        must("cuDeviceGetAttribute", ctypes.byref(number), MULTIPROCESSORS, device)
        seen["devices"].append({"uuid": bytes(uuid).hex(), "multiprocessors": number.value})
    if len(sys.argv) > 1:
        context = ctypes.c_void_p()
        must("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        must("cuCtxSetCurrent", context)
        seen["allocations"] = [{"mib": mib, "error": allocate(mib)} for mib in map(int, sys.argv[1:])]
    sys.stdout.write(json.dumps(seen) + "\n")


def allocate(mib: int) -> int:
    """Allocate and free; return CUDA's answer."""
    pointer = ctypes.c_uint64()
    error: int = cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(mib << 20))
    if error == 0:
        must("cuMemFree_v2", pointer)
    return error


def must(name: str, *arguments: object) -> None:
    """Call, and end with CUDA's number where it fails."""
    error = getattr(cuda, name)(*arguments)
    if error:
        sys.exit(f"{name} answered {error}")


if __name__ == "__main__":
    main()
