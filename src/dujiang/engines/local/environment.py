"""Composes the environment of a rank: pure.

Lowest first: what the machine gives everyone, what the platform suggests, the user's variables and secrets, and last
what the platform states as fact (who the job is, its rank, its devices, its limits), which nobody can override.
Standard library only: the supervisor's process imports this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dujiang.engines.local.procfs import MARK

PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE"),
    *("LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("CUDA_HOME", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "NVIDIA_DRIVER_CAPABILITIES"),
)
"""What of the platform's own environment reaches jobs. Nothing else does: it may hold the platform's secrets."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def base_environment(own: Mapping[str, str], also: Sequence[str] = ()) -> dict[str, str]:
    """Return what jobs inherit from the platform's environment."""
    passed = {name: own[name] for name in (*PASSED_ON, *also) if name in own}
    return {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", **passed}


def rank_environment(
    base: Mapping[str, str],
    launch: Mapping[str, Any],
    secrets: Mapping[str, str],
    rank: Mapping[str, Any],
    *,
    workdir: str,
    output_dir: str,
    ports: Sequence[int],
    master_port: int,
) -> dict[str, str]:
    """Return the whole environment of one rank.

    A rank stands for one node of the job's specification and sees only its own devices, so its LOCAL_RANK is 0.
    """
    cores = max(1, int(rank["cpu_milli"]) // 1000)
    suggested = {"OMP_NUM_THREADS": str(cores), "PYTHONUNBUFFERED": "1", "PWD": workdir}
    return {
        **base,
        **suggested,
        **launch["env"],
        **secrets,
        **_identity(launch),
        **_place_in_the_gang(launch, rank, master_port),
        **_means(launch, rank, ports),
        "DUJIANG_OUTPUT_DIR": output_dir,
    }


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Put the values of `$NAME` and `${NAME}` into a path; unknown names stay as they are."""
    return _REFERENCE.sub(lambda found: environment.get(found[1] or found[2], found[0]), text)


def _identity(launch: Mapping[str, Any]) -> dict[str, str]:
    job, _, number = launch["key"].rpartition(".")
    named = {
        "DUJIANG_JOB_ID": job,
        "DUJIANG_ATTEMPT": number,
        "DUJIANG_JOB_NAME": launch["name"],
        "DUJIANG_PROJECT": launch["project"],
        MARK: f"{launch['mark']}/{launch['key']}",
    }
    if launch.get("checkpoint"):
        named["DUJIANG_CHECKPOINT_DIR"] = launch["checkpoint"]["path"]
        if launch["checkpoint"].get("resume_from"):
            named["DUJIANG_RESUME_FROM"] = launch["checkpoint"]["resume_from"]
    return named


def _place_in_the_gang(launch: Mapping[str, Any], rank: Mapping[str, Any], master_port: int) -> dict[str, str]:
    world = str(launch.get("world", len(launch["ranks"])))  # more than its ranks, where others run on other machines
    hosts = launch.get("hosts") or ["127.0.0.1"] * int(world)
    return {
        "MASTER_ADDR": launch.get("master_addr", "127.0.0.1"),
        "MASTER_PORT": str(launch.get("master_port", master_port)),
        "DUJIANG_NODES": world,
        "DUJIANG_HOSTS": ",".join(hosts),
        "WORLD_SIZE": world,
        "RANK": str(rank["rank"]),
        "NODE_RANK": str(rank["rank"]),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
    }


def _means(launch: Mapping[str, Any], rank: Mapping[str, Any], ports: Sequence[int]) -> dict[str, str]:
    devices = rank["devices"]
    means = {
        "DUJIANG_LIMITS": launch["limits"]["by"],
        "DUJIANG_CPU_MILLI": str(rank["cpu_milli"]),
        "DUJIANG_MEMORY_BYTES": str(rank["memory_bytes"]),
        "DUJIANG_GPU_MILLI": str(sum(device["gpu_milli"] for device in devices)),
        "CUDA_VISIBLE_DEVICES": ",".join(device["name"] for device in devices),
    }
    means |= {f"PORT{nth or ''}": str(port) for nth, port in enumerate(ports)}
    if launch.get("mps") and any(device["gpu_milli"] < 1000 for device in devices):
        means |= _held_by_mps(launch["mps"], devices)
    return means


def _held_by_mps(pipe_dir: str, devices: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what holds a rank to its shares; limits of memory are by the order in which it sees its devices."""
    share = min(device["gpu_milli"] for device in devices)
    limits = [
        f"{nth}={max(1, device['memory_bytes'] >> 20)}M"
        for nth, device in enumerate(devices)
        if device["memory_bytes"]  # else it shares the machine's, and a limit of nothing would leave it nothing
    ]
    return {
        "CUDA_MPS_PIPE_DIRECTORY": pipe_dir,
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(max(1, share // 10)),
        **({"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": ",".join(limits)} if limits else {}),
    }
