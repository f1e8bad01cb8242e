"""Keeps its GPU busy through the driver alone and saves itself after every step: a training job without a framework.

    python busy.py STEPS [KILL_AT]      (the first attempt dies of SIGKILL after step KILL_AT)

Each step runs a kernel of some tens of milliseconds several times. Prints one line a step: `step=N device=UUID`.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PTX = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry burn(.param .u64 out, .param .u32 rounds) {
    .reg .pred %p<2>; .reg .f32 %f<4>; .reg .b32 %r<4>; .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [rounds];
    mov.u32 %r2, 0;
    mov.f32 %f1, 0f3F800000;
    mov.f32 %f2, 0f3F7FFFFF;
AGAIN:
    fma.rn.f32 %f1, %f1, %f2, %f2;
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p1, %r2, %r1;
    @%p1 bra AGAIN;
    st.global.f32 [%rd1], %f1;
    ret;
}
"""
STEP_S, BLOCKS, THREADS, ROUNDS = 0.1, 2048, 256, 100_000
cuda = ctypes.CDLL("libcuda.so.1")


def main() -> None:
    """Work from where the last attempt was saved."""
    steps, kill_at = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    saved = Path(os.environ["DUJIANG_CHECKPOINT_DIR"]) / "step"
    done = int(saved.read_text()) if saved.exists() else 0
    print(f"starts from step {done}", flush=True)  # noqa: T201
    device, burn = prepare()
    for step in range(done + 1, steps + 1):
        end = time.monotonic() + STEP_S
        while time.monotonic() < end:
            burn()
        fresh = saved.with_suffix(".new")
        fresh.write_text(str(step))
        fresh.replace(saved)
        print(f"step={step} device={device}", flush=True)  # noqa: T201
        if step == kill_at and os.environ["DUJIANG_ATTEMPT"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)


def prepare():  # type: ignore[no-untyped-def]
    """Return the UUID of the first device, and a function that runs the kernel once."""
    must("cuInit", 0)
    device, uuid, context = ctypes.c_int(), (ctypes.c_ubyte * 16)(), ctypes.c_void_p()
    must("cuDeviceGet", ctypes.byref(device), 0)
    must("cuDeviceGetUuid_v2", uuid, device)
    must("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    must("cuCtxSetCurrent", context)
    module, kernel, memory = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
    must("cuModuleLoadData", ctypes.byref(module), PTX)
    must("cuModuleGetFunction", ctypes.byref(kernel), module, b"burn")
    must("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(4))
    rounds = ctypes.c_uint32(ROUNDS)
    given = (ctypes.c_void_p * 2)(ctypes.addressof(memory), ctypes.addressof(rounds))

    def burn(_kept: object = (memory, rounds)) -> None:  # `given` holds their addresses alone
        must("cuLaunchKernel", kernel, BLOCKS, 1, 1, THREADS, 1, 1, 0, None, given, None)
        must("cuCtxSynchronize")

    return bytes(uuid).hex(), burn


def must(name: str, *arguments: object) -> None:
    """Call, and end with CUDA's number where it fails."""
    error = getattr(cuda, name)(*arguments)
    if error:
        sys.exit(f"{name} answered {error}")


if __name__ == "__main__":
    main()
