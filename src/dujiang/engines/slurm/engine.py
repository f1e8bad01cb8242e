"""The Slurm engine: each attempt a batch job, on the nodes that the platform chose, or on such as are like them.

What an attempt does is read from the files that its runner writes into the shared work folder (`runner`), and asked of
Slurm only where those say nothing: before the start, and when a job is gone without an end. Three files decide, each
made once by whoever comes first: `claim` (who may run it), `end` (the runner's word), `verdict` (ours, where Slurm had
to be asked). So an attempt runs at most once, also when an answer of `sbatch` was lost or Slurm requeued the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from dujiang.engines.contract import (
    Accounted,
    AttemptKey,
    Capabilities,
    EngineRefused,
    EngineUnavailable,
    Isolation,
    Launch,
    LogChunk,
    NodeFacts,
    NodeRefused,
    Observation,
    Phase,
    Usage,
)
from dujiang.engines.folders import OutputFolders
from dujiang.engines.slurm import asking, handed, nodes
from dujiang.engines.slurm.asking import MINE
from dujiang.engines.slurm.by_rest import controller_of
from dujiang.engines.slurm.commands import Commands
from dujiang.engines.slurm.folder import Folder, unwritable
from dujiang.engines.slurm.observing import Observer, micros_now
from dujiang.engines.slurm.output import read_chunks
from dujiang.engines.slurm.reading import SlurmNode
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.engines.slurm.sharing import SharedWorkDir
from dujiang.engines.slurm.users import User, own_name, user_of
from dujiang.engines.slurm.using import Meter
from dujiang.kit.beneath import Place
from dujiang.kit.clock import Clock

_NODES_S = 10.0
"""How old the list of nodes may be for the check of a launch, where a node that is not on it is asked for anew, and as
the sign that the cluster answers."""


class SlurmEngine(OutputFolders):
    """Runs attempts on a Slurm cluster. Use from one event loop; `changed` from one waiter."""

    kind: ClassVar[str] = "slurm"

    def __init__(self, settings: SlurmSettings, *, clock: Clock, commands: Commands | None = None) -> None:
        if not settings.work_dir.startswith("/"):
            raise EngineRefused(f"`work_dir` of a Slurm cluster must be absolute, not {settings.work_dir!r}")
        if settings.run_as and settings.placement != "pinned":
            raise EngineRefused(
                '`run_as` needs `placement = "pinned"`: where a job of another user runs is not taken from its own word'
            )
        self._settings, self._clock = settings, clock
        self._work = SharedWorkDir(settings.work_dir, is_shared=bool(settings.run_as))
        self._slurm = controller_of(settings, clock, commands, self._is_of)
        self._seen = Observer(self._work, self._slurm, settings, clock)
        self._meter = Meter()
        self._runner = ""
        self._limits_by, self._version = "", ""
        self._images: str | None = None
        self._nodes: dict[str, SlurmNode] = {}
        self._nodes_at_s = float("-inf")
        self._submitting: dict[AttemptKey, asyncio.Lock] = {}

    # -- what there is ------------------------------------------------------------------------------------------------

    async def capabilities(self) -> Capabilities:
        """Say what Slurm's configuration holds jobs to."""
        by, images = await self._find_limits(), await self._find_images()
        enforced = by.startswith("slurm")
        missing = [
            "shares of a device are not isolated: jobs get whole devices, or what Slurm only counts (`fractions`)"
        ]
        if not enforced:
            missing.append("Slurm holds no job to its memory: set TaskPlugin=task/cgroup and ConstrainRAMSpace=yes")
        if not images:
            missing.append(
                "no container image can be run: install pyxis or Apptainer on the nodes, or name it (images)"
            )
        return Capabilities(
            kind=self.kind,
            images=images,
            limits=Isolation.ENFORCED if enforced else Isolation.COUNTED_ONLY,
            limits_by=by,
            device_isolation=Isolation.COUNTED_ONLY,
            stacks_ranks=True,
            version=self._version,
            missing=tuple(missing),
        )

    async def inventory(self) -> Sequence[NodeFacts]:
        """Return the nodes of the cluster, or of its partition that is set, less what Slurm gave to others."""
        found, switches = await self._ask_nodes(), await self._slurm.switches()
        reservations, launches = await self._slurm.reservations(), await self._seen.running_launches()
        held, closed = nodes.held_by(launches), self._work.closed()
        reserved = nodes.reservations_now(reservations, self._clock.now().timestamp())
        own = self._settings.reservation
        return [
            nodes.facts_of(
                node, held=held.get(node.name, nodes.Held()), closed=closed.get(node.name),
                switch=switches.get(node.name, ""), settings=self._settings, reserved=reserved.get(node.name, ()),
                kept=nodes.why_kept(reserved.get(node.name, ()), own),
            )
            for node in found
        ]  # fmt: skip

    async def attempts(self) -> Sequence[AttemptKey]:
        """Return every attempt that is listed in the work folder, once the cluster has answered a moment ago or now.

        The folder alone tells nothing of whether what it lists still runs: a dead cluster would pass for an idle one.
        """
        if self._clock.monotonic_s() - self._nodes_at_s > _NODES_S:
            await self._ask_nodes()
        return self._work.known()

    async def accounted(self, since: datetime, until: datetime) -> Sequence[Accounted]:
        """Return what slurmdbd says of our jobs of a time."""
        if not await self._slurm.keeps_accounts():
            raise EngineRefused(
                "this Slurm cluster keeps no accounts (no slurmdbd): there is nothing to compare the ledger with"
            )
        return await self._slurm.accounted(since, until, self._work.mark, self._settings.work_dir)

    # -- start --------------------------------------------------------------------------------------------------------

    async def submit(self, launch: Launch) -> None:
        """Write the attempt down and have Slurm take it; a job that took a lost request is found by its comment."""
        asking.refuse_bad_key(launch.key)
        user = user_of(self._settings, launch.project)
        if user is None:
            self._refuse_root()
        async with self._submitting.setdefault(launch.key, asyncio.Lock()):
            self._open()
            if user is not None:
                self._work.refuse(user)
            folder = self._work.attempt(launch.key)
            if any(folder.has(name) for name in ("forgotten", "verdict.json", "claim.json", "job.json")):
                return
            if folder.has("launch.json") and await self._seen.adopt(launch.key):
                return
            await self._submit(launch, user)
        self._submitting.pop(launch.key, None)

    async def _submit(self, launch: Launch, user: User | None) -> None:
        await self._refuse_placement(launch)
        devices = {name: nodes.devices_of(self._nodes[name]) for name in {rank.node for rank in launch.ranks}}
        taken = asking.portions(launch.ranks, devices, self._shards(), self._settings.shared_as or "shard")
        record = asking.describe(
            launch, taken, addresses={name: node.address for name, node in self._nodes.items()},
            limits_by=await self._find_limits(), settings=self._settings, images=await self._find_images(),
        )  # fmt: skip
        try:  # in a thread: a shared folder may take milliseconds a file, and other submissions need not wait for it
            folder, script = await asyncio.to_thread(self._write_down, launch, record, user)
        except OSError as error:
            raise unwritable(self._work.root, error) from error
        batch = asking.batch(
            launch, taken, self._work.mark, folder.path if user is None else None, self._settings,
            self._elsewhere(list(taken)),
        )  # fmt: skip
        try:
            number = await self._slurm.submit(batch, script, folder.run_as)
        except EngineRefused:
            self._work.undo(launch.key)
            raise
        await asyncio.to_thread(folder.once, "job", {"job": number, "at": micros_now(self._clock)})
        self._seen.news()

    def _write_down(self, launch: Launch, record: dict[str, Any], user: User | None) -> tuple[Folder, str]:
        """Write the attempt down; return its folder, and the batch script that runs it."""
        if user is not None:
            return self._hand_over(launch, record, user)
        folder = self._work.begin(launch.key)
        if launch.secrets:
            folder.write("secrets", dict(launch.secrets))
        folder.write("launch", record)
        return folder, asking.script(self._runner, folder.path, self._settings)

    def _hand_over(self, launch: Launch, record: dict[str, Any], user: User) -> tuple[Folder, str]:
        folder = self._work.begin_as(launch.key, user, micros_now(self._clock))
        half = ""
        if launch.secrets:
            half, other = handed.split(launch.secrets)
            folder.hand_half(other)
        if record["own_workdir"]:
            record["workdir"] = f"{folder.top}/{folder.place}/work"
        record["asks"] = folder.path
        folder.write("launch", record)
        return folder, handed.script(self._runner, folder.record(record, half), self._settings.python)

    async def _refuse_placement(self, launch: Launch) -> None:
        wanted = {rank.node for rank in launch.ranks}
        if not wanted <= set(self._nodes) or self._clock.monotonic_s() - self._nodes_at_s > _NODES_S:
            await self._ask_nodes()
        asking.refuse_impossible(
            launch, {name: nodes.devices_of(node) for name, node in self._nodes.items()}, self._settings,
            await self._find_images() if launch.image is not None else "", self._shards(),
        )  # fmt: skip
        closed = self._work.closed()
        for name in sorted(wanted & set(closed)):
            raise NodeRefused(f"node {name!r} is closed to new work: {closed[name]}")

    # -- look ---------------------------------------------------------------------------------------------------------

    async def observe(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Observation]:
        """Return what the files say of these attempts, and Slurm where they say nothing."""
        seen: dict[AttemptKey, Observation] = {}
        asked_s = self._clock.monotonic_s()
        for key in keys:
            if (found := await self._seen.look(key, asked_s)) is not None:
                seen[key] = found
        return seen

    async def usage(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Usage]:
        """Return what the runners wrote down of running attempts; devices are not measured."""
        seen = await self.observe(keys)
        now, found = self._clock.now(), dict[AttemptKey, Usage]()
        for key, one in seen.items():
            if one.phase is Phase.RUNNING:
                found[key] = Usage(key, now, cpu=self._meter.cpu(key, self._work.attempt(key)))
        self._meter.keep(found)
        return found

    async def logs(
        self, key: AttemptKey, *, rank: int = 0, offset: int = 0, follow: bool = False
    ) -> AsyncIterator[LogChunk]:
        """Yield a rank's output, as the shared folder shows it here."""
        folder = self._work.attempt(key)
        async for chunk in read_chunks(
            folder, rank, offset, follow=follow, is_over=lambda: self._seen.is_over(key), clock=self._clock,
            every_s=self._settings.watch_s,
        ):  # fmt: skip
            yield chunk

    def output_place(self, key: AttemptKey) -> Place:
        """Return where the output folder of an attempt is, whoever ran it."""
        if not self._work.is_there():
            raise EngineUnavailable("The work folder of this Slurm cluster is not to be seen here now: mount it again.")
        return self._work.attempt(key).output_place(self._work.root)

    async def changed(self, timeout_s: float) -> bool:
        """Wait until a file of an attempt, or its job in Slurm, is another."""
        return await self._seen.changed(timeout_s)

    # -- change -------------------------------------------------------------------------------------------------------

    async def signal(self, key: AttemptKey, number: int) -> None:
        """Write the request down for the runner and wake it."""
        if not 1 <= number <= 64:
            raise EngineRefused(f"there is no signal {number}")
        folder = self._work.attempt(key)
        if self._work.is_known(key) and folder.has("claim.json") and not self._has_ended(folder):
            await self._request(folder, f"signal {number}")

    async def cancel(self, key: AttemptKey, *, grace_s: float | None = None) -> None:
        """Keep the attempt from ever starting, or have its runner stop it; Slurm is told what is left."""
        folder = self._work.attempt(key)
        if not self._work.is_known(key) or self._has_ended(folder):
            return
        if self._seen.keep_from_starting(key):
            folder.remove("secrets.json")
            folder.spend()
            job = folder.read("job") or {"job": await self._seen.adopt(key)}
            if job["job"]:
                await self._slurm.cancel(job["job"], folder.run_as)
            return
        grace = float((folder.read("launch") or {}).get("grace_s", 0.0)) if grace_s is None else max(0.0, grace_s)
        self._seen.expect_end(key, grace)
        await self._request(folder, f"stop {grace}")

    async def _request(self, folder: Folder, line: str) -> None:
        try:
            folder.request(line)
        except OSError as error:
            raise unwritable(self._work.root, error) from error
        if job := folder.read("job"):
            await self._slurm.wake(job["job"], folder.run_as)

    @staticmethod
    def _has_ended(folder: Folder) -> bool:
        return folder.has("verdict.json") or (folder.is_ours and folder.has("end.json"))

    async def cordon(self, node: str, reason: str) -> None:
        """Close a node to new work of ours, and by draining it to that of others where this user may.

        A node that a person has closed stays as it is.
        """
        found = await self._node(node)
        self._open()
        try:
            self._work.close_node(node, reason)
        except OSError as error:
            raise unwritable(self._work.root, error) from error
        if not nodes.is_persons(found):
            await self._slurm.drain(node, f"{MINE}{reason or 'closed'}")

    async def uncordon(self, node: str) -> None:
        """Open a node again, in Slurm too where we closed it."""
        found = await self._node(node)
        self._work.open_node(node)
        if "DRAIN" in found.states and found.reason.startswith(MINE):
            await self._slurm.resume(node)

    async def drain(self, node: str, reason: str, *, grace_s: float | None = None) -> None:
        """Close a node and begin to stop what is ours on it."""
        await self.cordon(node, reason)
        for key in self._work.known():
            if node in self._work.attempt(key).nodes():
                await self.cancel(key, grace_s=grace_s)

    async def forget(self, key: AttemptKey) -> None:
        """Drop the record of an attempt that is over; its output stays, and it never starts again."""
        seen = await self._seen.look(key)
        if seen is None or seen.phase is not Phase.ENDED:
            return
        folder = self._work.attempt(key)
        try:
            folder.write("forgotten", {})
            os.rename(f"{folder.path}/forgotten.json", f"{folder.path}/forgotten")
        except OSError as error:
            raise unwritable(self._work.root, error) from error
        folder.spend()
        self._work.drop(key)
        folder.remove("secrets.json", "launch.json", "job.json", "started.json", "end.json", "verdict.json", "requests")
        self._seen.drop(key)

    async def close(self) -> None:
        """Let go of what is known; what runs goes on."""
        self._seen.clear()
        await self._slurm.close()

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if not self._runner or not os.path.exists(self._runner):
            self._runner = self._work.open()

    def _elsewhere(self, chosen: Sequence[str]) -> asking.Elsewhere | None:
        """Return which other nodes a job may run on; None where it is pinned to the chosen ones."""
        if self._settings.placement == "pinned":
            return None
        features = [set(self._nodes[name].features) for name in chosen]
        never = set(self._work.closed()) & set(self._nodes)
        return asking.Elsewhere(tuple(sorted(set.intersection(*features))), tuple(sorted(never)))

    def _is_of(self, key: str, user: str) -> bool:
        """Say whether a job of this user of Slurm can be that of an attempt, by its printed key."""
        if not self._settings.run_as:
            return True
        with contextlib.suppress(ValueError):
            return user == (self._work.attempt(AttemptKey.parse(key)).run_as or own_name(self._settings))
        return False

    def _refuse_root(self) -> None:
        if os.geteuid() == 0 and not self._settings.allow_root and not self._settings.ssh:
            raise EngineRefused(
                "the platform runs as root, and its Slurm jobs would be root's: run it as an ordinary user, or set"
                " `allow_root`"
            )

    async def _find_limits(self) -> str:
        if not self._limits_by:
            told = await self._slurm.configuration()
            confined = "cgroup" in told.get("TaskPlugin", "") and told.get("ConstrainRAMSpace", "no") == "yes"
            self._version = told.get("SLURM_VERSION", "")
            self._limits_by = "slurm-cgroup" if confined else "rlimits"
        return self._limits_by

    async def _find_images(self) -> str:
        if self._images is None:
            wanted = self._settings.images
            self._images = "" if wanted == "none" else await self._slurm.images() if wanted == "auto" else wanted
        return self._images

    def _shards(self) -> dict[str, int]:
        """Return how many shards a device of each node has, where shares are asked for as such."""
        if not (shared_as := self._settings.shared_as):
            return {}
        return {name: nodes.shards_of(node, shared_as) for name, node in self._nodes.items()}

    async def _ask_nodes(self) -> list[SlurmNode]:
        partition = self._settings.partition
        found = await self._slurm.nodes()
        self._nodes = {node.name: node for node in found if not partition or partition in node.partitions}
        self._nodes_at_s = self._clock.monotonic_s()
        return list(self._nodes.values())

    async def _node(self, name: str) -> SlurmNode:
        await self._ask_nodes()
        with contextlib.suppress(KeyError):
            return self._nodes[name]
        raise NodeRefused(f"this Slurm cluster shows no node {name!r} to us")
