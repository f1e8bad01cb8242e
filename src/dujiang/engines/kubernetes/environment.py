"""Composes the environment of a rank, and the means that a launch gets by its name: pure.

The same variables as on the local engine. Lowest first: what the platform suggests, the user's variables and secrets,
and last what the platform states as fact, which nobody can override. The image's own come before all of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dujiang.engines.contract import Launch, RankPlacement
from dujiang.engines.kubernetes.settings import KubernetesSettings

WORK: Final = "/dujiang/work"
OUTPUT: Final = "/dujiang/output"
LIMITS: Final = "kubernetes"
_FIRST_PORT, _PORTS = 20_000, 12_000


def ports_of(launch: Launch) -> list[int]:
    """Return the port of the gang and those of the job: by its key, since each Pod has a network of its own.

    On the nodes' network (`network = "host"`) the scheduler keeps apart those that are the same.
    """
    count = 1 + launch.ports
    first = _FIRST_PORT + zlib.crc32(str(launch.key).encode()) % (_PORTS - count)
    return list(range(first, first + count))


def folders_of(launch: Launch, settings: KubernetesSettings) -> tuple[str, str]:
    """Return where the texts run, and where results go."""
    key, root = launch.key, settings.work_dir
    if not root:
        return launch.workdir or WORK, OUTPUT
    return launch.workdir or f"{root}/work/{key.job_id}", f"{root}/attempts/{key.job_id}/{key.number}/output"


def go_file(launch: Launch, settings: KubernetesSettings) -> str:
    """Return the file that tells the other ranks of the first one's setup; empty where no folder is shared."""
    if not settings.work_dir or len(launch.ranks) == 1 or not launch.setup.strip():
        return ""
    return f"{settings.work_dir}/attempts/{launch.key.job_id}/{launch.key.number}/went"


def rank_environment(
    launch: Launch,
    rank: RankPlacement,
    *,
    hosts: Sequence[str],
    ports: list[int],
    workdir: str,
    output_dir: str,
    mark: str,
    devices: Mapping[str, str],
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables of one rank: those that the user's secrets come before, and those that nothing does.

    Args:
        launch: what is asked.
        rank: whose.
        hosts: where each rank is reached.
        ports: the gang's and the job's.
        workdir: where its texts run.
        output_dir: where its results go.
        mark: of this platform.
        devices: variables that its devices need.
    """
    suggested = {"OMP_NUM_THREADS": str(max(1, rank.cpu_milli // 1000)), "PYTHONUNBUFFERED": "1", "PWD": workdir}
    facts = {
        **_identity(launch, mark),
        **_place_in_the_gang(rank, hosts, ports[0]),
        **_means(rank, ports[1:]),
        **devices,
        "DUJIANG_OUTPUT_DIR": output_dir,
    }
    return {**suggested, **launch.env}, facts


def _identity(launch: Launch, mark: str) -> dict[str, str]:
    named = {
        "DUJIANG_JOB_ID": launch.key.job_id,
        "DUJIANG_ATTEMPT": str(launch.key.number),
        "DUJIANG_JOB_NAME": launch.name,
        "DUJIANG_PROJECT": launch.project,
        "DUJIANG_ATTEMPT_KEY": f"{mark}/{launch.key}",
    }
    if launch.checkpoint:
        named["DUJIANG_CHECKPOINT_DIR"] = launch.checkpoint.path
        if launch.checkpoint.resume_from:
            named["DUJIANG_RESUME_FROM"] = launch.checkpoint.resume_from
    return named


def _place_in_the_gang(rank: RankPlacement, hosts: Sequence[str], port: int) -> dict[str, str]:
    world = str(len(hosts))
    return {
        "MASTER_ADDR": hosts[0],
        "MASTER_PORT": str(port),
        "DUJIANG_NODES": world,
        "DUJIANG_HOSTS": ",".join(hosts),
        "WORLD_SIZE": world,
        "RANK": str(rank.rank),
        "NODE_RANK": str(rank.rank),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
    }


def _means(rank: RankPlacement, ports: list[int]) -> dict[str, Any]:
    return {
        "DUJIANG_LIMITS": LIMITS,
        "DUJIANG_CPU_MILLI": str(rank.cpu_milli),
        "DUJIANG_MEMORY_BYTES": str(rank.memory_bytes),
        "DUJIANG_GPU_MILLI": str(sum(device.gpu_milli for device in rank.devices)),
        # Which devices it may see is the runtime's to say; without any, it is to see none.
        **({} if rank.devices else {"CUDA_VISIBLE_DEVICES": ""}),
        **{f"PORT{nth or ''}": str(port) for nth, port in enumerate(ports)},
    }
