"""Turns a launch into a batch job: what `sbatch` is told, what the runner reads, and what is refused: pure."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from dujiang.engines.contract import AttemptKey, EngineRefused, Launch, NodeRefused, RankPlacement
from dujiang.engines.slurm.accounts import NAME
from dujiang.engines.slurm.images import refuse_unmountable
from dujiang.engines.slurm.runner import nodes_of
from dujiang.engines.slurm.settings import SlurmSettings

MINE = "dujiang: "
"""Begins every reason that we write on a node; reasons that begin otherwise are a person's and never touched."""
_JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,119}")
_MOST_PORTS = 64
_HASH_LIMIT_BYTES = 20 << 30
_WARNING_S = 15
"""How long before Slurm's own time limit the runner is told, on top of the grace."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Portion:
    """What an attempt takes of one node, in Slurm's units."""

    cpus: int
    memory_mib: int
    gpus: Mapping[str, int]
    """Whole devices by type of GRES."""
    shards: int = 0
    """Of one device, where it is shared."""
    shared_as: str = "shard"
    """The GRES that these are of."""


def refuse_bad_key(key: AttemptKey) -> None:
    """Raise where the key cannot name files and jobs.

    Raises:
        EngineRefused: with what a name may hold.
    """
    if not _JOB_ID.fullmatch(key.job_id) or key.number < 1:
        raise EngineRefused(f"{str(key)!r} cannot name an attempt: letters, digits, - and _, and a number from 1")


def refuse_impossible(
    launch: Launch, devices: Mapping[str, Mapping[str, str]], settings: SlurmSettings, images: str = "",
    shards: Mapping[str, int] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Raise where this cluster could never run the launch.

    Args:
        launch: what is asked.
        devices: of each node that there is, its devices by name, with their types.
        settings: of the cluster.
        images: what runs images there; empty where nothing does.
        shards: how many shards each device of a node has, by node.

    Raises:
        EngineRefused: with what to change.
    """
    if launch.image is not None and not images:
        raise EngineRefused(
            "this Slurm cluster runs no container images: install pyxis or Apptainer on its nodes, or name it by the"
            " setting `images`"
        )
    if not launch.ranks or [rank.rank for rank in launch.ranks] != list(range(len(launch.ranks))):
        raise EngineRefused("the ranks must be numbered from 0 without a gap")
    if not 0 <= launch.ports <= _MOST_PORTS:
        raise EngineRefused(f"at most {_MOST_PORTS} ports a job")
    for rank in launch.ranks:
        if rank.node not in devices:
            raise NodeRefused(f"this Slurm cluster shows no node {rank.node!r} to us")
        for device in rank.devices:
            if device.name not in devices[rank.node]:
                raise NodeRefused(f"node {rank.node!r} has no device {device.name!r}")
            if device.gpu_milli < 1000 and settings.fractions == "refuse":
                raise EngineRefused(
                    "this Slurm cluster gives whole devices only: ask for whole ones, or set `fractions` to `whole`"
                )
    if settings.shared_as and any(share.gpu_milli < 1000 for rank in launch.ranks for share in rank.devices):
        _refuse_shares(launch.ranks, shards, settings.shared_as)
    for what, text in (("run", launch.run), ("setup", launch.setup), ("workdir", launch.workdir or "")):
        if "\0" in text:
            raise EngineRefused(f"`{what}` holds a NUL character, which no command line can carry")
    if launch.workdir is not None and not launch.workdir.startswith("/"):
        raise EngineRefused(f"workdir {launch.workdir!r} must be absolute")
    for name, value in {**launch.env, **launch.secrets}.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise EngineRefused(f"the variable {name!r} has a name or a value that no environment can carry")


def _refuse_shares(ranks: tuple[RankPlacement, ...], shards: Mapping[str, int], shared_as: str) -> None:
    """Raise where Slurm cannot give these shares: it gives a job parts of one device on each of its nodes."""
    for node in dict.fromkeys(rank.node for rank in ranks):
        shares = [share for rank in ranks if rank.node == node for share in rank.devices]
        if not shards.get(node):
            raise EngineRefused(
                f"node {node!r} has no shares in Slurm (GRES `{shared_as}`): ask for whole devices there"
            )
        if len({share.name for share in shares}) != 1 or any(share.gpu_milli >= 1000 for share in shares):
            raise EngineRefused(
                "Slurm gives a job shares of one device a node, on all of its nodes or none, and no whole ones besides"
            )


def portions(
    ranks: tuple[RankPlacement, ...], devices: Mapping[str, Mapping[str, str]],
    shards: Mapping[str, int] = MappingProxyType({}), shared_as: str = "shard",
) -> dict[str, Portion]:  # fmt: skip
    """Return what the ranks take of each node: whole processors, and whole devices or shards, as Slurm gives them.

    Args:
        ranks: with their places.
        devices: types of devices by name, by node.
        shards: how many each device of a node has, by node; empty where shares are given whole devices.
        shared_as: the GRES that these are of.
    """
    found: dict[str, Portion] = {}
    for node in dict.fromkeys(rank.node for rank in ranks):
        own = [rank for rank in ranks if rank.node == node]
        shares = [share for rank in own for share in rank.devices]
        types = [devices[node].get(name, "") for name in dict.fromkeys(share.name for share in shares)]
        shared = sum(share.gpu_milli for share in shares) if any(share.gpu_milli < 1000 for share in shares) else 0
        count = math.ceil(shared * shards.get(node, 0) / 1000)
        found[node] = Portion(
            cpus=max(1, math.ceil(sum(rank.cpu_milli for rank in own) / 1000)),
            memory_mib=math.ceil(sum(rank.memory_bytes for rank in own) / _MIB),
            gpus={} if count else {kind: types.count(kind) for kind in dict.fromkeys(types)},
            shards=count,
            shared_as=shared_as,
        )
    return found


def largest(taken: Mapping[str, Portion]) -> Portion:
    """Return what each node must give: Slurm gives every node of a job the same."""
    kinds = dict.fromkeys(kind for portion in taken.values() for kind in portion.gpus)
    return Portion(
        max(portion.cpus for portion in taken.values()),
        max(portion.memory_mib for portion in taken.values()),
        {kind: max(portion.gpus.get(kind, 0) for portion in taken.values()) for kind in kinds},
        max(portion.shards for portion in taken.values()),
        next(portion.shared_as for portion in taken.values()),
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch job, before it is said in the words of `sbatch` or of REST."""

    name: str
    comment: str
    nodes: tuple[str, ...]
    """That the platform chose."""
    each: Portion
    """What every node gives."""
    folder: str
    """Where it begins."""
    output: str
    limit_min: int | None
    warning_s: int
    """So long before Slurm's own limit, USR2 is sent to the batch script."""
    partition: str
    account: str
    qos: str
    reservation: str = ""
    elsewhere: Elsewhere | None = None
    """Where else it may run; None pins it to its nodes."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What other nodes a job may run on than those that the platform chose."""

    features: tuple[str, ...]
    """They have all of these."""
    never: tuple[str, ...]
    """Those that are closed to us."""


def batch(
    launch: Launch, taken: Mapping[str, Portion], mark: str, folder: str | None, settings: SlurmSettings,
    elsewhere: Elsewhere | None = None,
) -> Batch:  # fmt: skip
    """Return the batch job of a launch; without a folder, what Slurm itself prints is kept nowhere."""
    limit_s = launch.time_limit_s
    return Batch(
        name=f"{NAME}{launch.key}", comment=comment(mark, launch.key), nodes=tuple(taken), each=largest(taken),
        folder=settings.work_dir, output=f"{folder}/slurm.out" if folder else "/dev/null",
        limit_min=None if limit_s is None else minutes(limit_s + launch.grace_s),
        warning_s=min(65535, math.ceil(launch.grace_s) + _WARNING_S), partition=settings.partition,
        account=settings.account, qos=settings.qos, reservation=settings.reservation,
        elsewhere=elsewhere,
    )  # fmt: skip


def options(batch: Batch, settings: SlurmSettings) -> list[str]:
    """Return the options of `sbatch`, pinned to the nodes that the platform chose, or to such as are like them."""
    each, count = batch.each, len(batch.nodes)
    words = [
        "--parsable", f"--job-name={batch.name}", f"--comment={batch.comment}", *_where(batch),
        f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", f"--cpus-per-task={each.cpus}", "--no-requeue",
        "--open-mode=append", f"--output={batch.output}", f"--chdir={batch.folder}",
    ]  # fmt: skip
    if each.memory_mib:
        words.append(f"--mem={each.memory_mib}M")
    if asked := gres(each):
        words.append(f"--gres={','.join(asked)}")
    if batch.limit_min is not None:
        words.append(f"--time={batch.limit_min}")
    words.append(f"--signal=B:USR2@{batch.warning_s}")
    named = {
        "partition": batch.partition, "account": batch.account, "qos": batch.qos, "reservation": batch.reservation,
    }  # fmt: skip
    return [*words, *(f"--{name}={value}" for name, value in named.items() if value), *settings.sbatch_options]


def _where(batch: Batch) -> list[str]:
    if batch.elsewhere is None:
        return [f"--nodelist={','.join(batch.nodes)}"]
    features, never = "&".join(batch.elsewhere.features), ",".join(batch.elsewhere.never)
    return [*([f"--constraint={features}"] if features else []), *([f"--exclude={never}"] if never else [])]


def gres(each: Portion) -> list[str]:
    """Return devices as Slurm writes them: `gpu:h100:2`, or `shard:3`, or `mps:50`."""
    shards = [f"{each.shared_as}:{each.shards}"] if each.shards else []
    return [*(f"gpu:{kind}:{count}" if kind else f"gpu:{count}" for kind, count in each.gpus.items()), *shards]


def minutes(limit_s: float) -> int:
    """Return Slurm's own limit, in its minutes: later than the runner's, which is exact, by a minute or two."""
    return math.ceil(limit_s / 60) + 2


def comment(mark: str, key: AttemptKey) -> str:
    """Return what tells the batch jobs of an attempt from all others."""
    return f"dujiang:{mark}:{key}"


def script(runner: str, folder: str, settings: SlurmSettings) -> str:
    """Return the batch script, for /bin/sh: the runner takes its place, deaf to signals until it is ready for them."""
    words = shlex.join([settings.python, "-sS", runner, folder])
    return f"trap '' USR1 USR2\nexec {words}\n"


def describe(
    launch: Launch, taken: Mapping[str, Portion], *, addresses: Mapping[str, str], limits_by: str,
    settings: SlurmSettings, images: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Return the launch record that the runner reads: everything but the secrets."""
    first = launch.ranks[0].node
    record: dict[str, Any] = {
        "key": str(launch.key),
        "mark": "slurm",
        "root": settings.work_dir,
        "name": launch.name,
        "project": launch.project,
        "run": launch.run,
        "setup": launch.setup,
        "ranks": [asdict(rank) for rank in launch.ranks],
        "env": dict(launch.env),
        "image": _image(launch.image, images, settings) if launch.image else None,
        "workdir": launch.workdir or f"{settings.work_dir}/work/{launch.key.job_id}",
        "own_workdir": launch.workdir is None,
        "checkpoint": asdict(launch.checkpoint) if launch.checkpoint else None,
        "time_limit_s": launch.time_limit_s,
        "grace_s": launch.grace_s,
        "ports": launch.ports,
        "inputs": [asdict(wanted) for wanted in launch.inputs],
        "record_environment": launch.record_environment,
        "processes_limit": launch.processes_limit,
        "labels": dict(launch.labels),
        "limits": {"by": limits_by, "parents": {}},
        "mps": None,
        "shell": settings.shell,
        "hash_limit_bytes": _HASH_LIMIT_BYTES,
        "use_every_s": settings.use_every_s,
        "cpus_per_node": largest(taken).cpus,
        "granted_only": largest(taken).shards > 0,
        "shared_as": largest(taken).shared_as if largest(taken).shards else "",
        "master_addr": addresses.get(first, first),
        "hosts": [addresses.get(rank.node, rank.node) for rank in launch.ranks],
    }
    if settings.placement == "delegated":
        record["addresses"] = dict(addresses)  # of all nodes: any of them may become its own
    assert nodes_of(record) == list(taken)
    if record["image"] and (wrong := refuse_unmountable(record)):
        raise EngineRefused(wrong)
    return record


def _image(reference: str, by: str, settings: SlurmSettings) -> dict[str, Any]:
    options, mounts = list(settings.container_options), list(settings.container_mounts)
    return {"reference": reference, "by": by, "options": options, "mounts": mounts}
