"""Composes the environment of a rank, and the means that a launch gets by its name: pure.

The same variables as on the local engine. Lowest first: what the platform suggests, the user's variables and secrets,
and last what the platform states as fact, which nobody can override. The image's own come before all of them.
"""

from __future__ import annotations

import re
import shlex
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dujiang.engines.contract import Launch, RankPlacement
from dujiang.engines.kubernetes.settings import KubernetesSettings

OWN: Final = "/dujiang"
"""Folder of the platform in each container."""
WORK: Final = "/dujiang/work"
OUTPUT: Final = "/dujiang/output"
LIMITS: Final = "kubernetes"
_FIRST_PORT, _PORTS = 20_000, 12_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OF_SHELLS = re.compile(
    r"dj_.*|_|BASH.*|COMP.*|COLUMNS|DIRSTACK|E?UID|ENV|EPOCH.*|FUNC.*|GROUPS|HIST.*|HOME|IFS|INSIDE_EMACS|LC_.*|LANG.*"
    r"|LD_.*|LINENO|LINES|MACHTYPE|MAIL.*|OLDPWD|OPT(?:ARG|ERR|IND)|OS?TYPE|PATH|PIPESTATUS|POSIXLY_CORRECT|PPID"
    r"|PS[0-4]|S?RANDOM|READLINE.*|REPLY|SECONDS|SHELL(?:OPTS)?|SHLVL|TIMEFORMAT|TMOUT|TMPDIR"
)
"""Variables that mean something to a shell that sets them, or to the runner: these the container has from the start."""


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
    """
    suggested = {"OMP_NUM_THREADS": str(max(1, rank.cpu_milli // 1000)), "PYTHONUNBUFFERED": "1", "PWD": workdir}
    facts = {
        **_identity(launch, mark),
        **_place_in_the_gang(rank, hosts, ports[0]),
        **_means(rank, ports[1:]),
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


def exports(variables: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return shell lines that set variables, and those that no line may set.

    A variable in a Pod takes five times as long to tell as its line here, for every reader and writer of the Pod.
    """
    ours = {name: text for name, text in variables.items() if _NAME.fullmatch(name) and not _OF_SHELLS.fullmatch(name)}
    lines = "".join(f"export {name}={shlex.quote(text)}\n" for name, text in ours.items())
    return lines, {name: text for name, text in variables.items() if name not in ours}
