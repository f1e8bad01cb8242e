"""Runs on the nodes, inside the batch job: starts an attempt under the local engine's supervisor and writes its facts.

    python3 runner.pyz FOLDER           the batch script: claims the attempt, then is its only node, or asks `srun`
    python3 runner.pyz FOLDER node      one node of several, started by `srun`; secrets come by standard input

The attempt's folder lies on the shared file system and is all that the platform and the nodes have in common:

    launch.json  secrets.json   written by the platform; the secrets are removed as soon as they were read
    claim.json                  who may run the attempt: made once, by whoever comes first, so that a job which Slurm
                                requeues, or a second job after a lost answer, finds it and runs nothing
    requests                    lines `stop GRACE_S` and `signal NUMBER`, appended by the platform
    started.json  end.json      made once each
    placed.json                 the nodes, where Slurm chose them
    use/NODE.json               what its processes have used so far, written anew from time to time
    go.json  failed.json  part-NODE.json     between the nodes of an attempt of several

Standard library only, and only modules of the same kind: `archive` puts them into one file for the nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dujiang.engines.local import procfs, records
from dujiang.engines.local.home import Home, read_whole, write_whole
from dujiang.engines.local.limits import Group, LimitPlan, Share, read
from dujiang.engines.local.linux import adopt_orphans
from dujiang.engines.local.supervisor import KICK
from dujiang.engines.slurm.images import ImageSupervisor
from dujiang.engines.slurm.settling import chosen, settled

WAKE = signal.SIGURG
"""Sent by the platform after it wrote a request. Its default is to be ignored: it may come at any time."""
WARNED = signal.SIGUSR2
"""Sent by Slurm (`sbatch --signal=B:USR2@S`) before it ends the job."""
_HEARD = (signal.SIGCHLD, signal.SIGTERM, WAKE, WARNED)
READABLE = 0o640
"""Of what the runner writes: for a job of another user the platform reads it by its group (`another`)."""
_POLL_S = 2.0
_POLL_TOGETHER_S = 0.5
"""Of several nodes, only the first hears `WAKE`."""
_MPS_PIPES = "/tmp/nvidia-mps"
"""Where CUDA looks for the MPS daemon of a node, unless Slurm's prolog says otherwise."""
_GO_WITHIN_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class NodeHome(Home):
    """The paths of one node of an attempt: what is its own lies in a scratch folder of the node."""

    scratch: str = ""
    own: str = ""

    def folder(self, key: str) -> str:
        return self.own or super().folder(key)

    @property
    def ports(self) -> str:
        return f"{tempfile.gettempdir()}/dujiang-ports-{os.getuid()}.lock"

    def state(self, key: str) -> str:
        return f"{self.scratch}/state"

    def launch(self, key: str) -> str:
        return f"{self.scratch}/launch.json"

    def secrets(self, key: str) -> str:
        return f"{self.scratch}/secrets.json"

    def facts(self, key: str) -> str:
        return f"{self.scratch}/facts.json"


class JobGroup(Group):
    """The limits that Slurm holds the whole job on this node to; nothing is made or removed."""

    def __init__(self, name: str) -> None:
        super().__init__(LimitPlan("slurm-cgroup"), name, Share(0, 0, 0))
        self._memory = memory_folder()

    def oom_kills(self) -> int:
        """Return how many processes of the job the kernel killed at its memory limit."""
        return oom_kills_in(self._memory)


class NodeSupervisor(ImageSupervisor):
    """The local engine's supervisor, under Slurm's limits and beside those of other nodes."""

    go: str = ""
    """Where to say that the setup is done; empty without other nodes."""
    begun: str = ""
    """Where to say that it began; empty on all nodes but the first rank's."""
    node: str = ""

    def _make_folders(self) -> None:
        super()._make_folders()
        for rank in self._launch["ranks"]:
            path = self._home.output(self._key, rank["rank"])
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, READABLE))

    def _notify(self) -> None:
        """Say that it began before anything runs: who reads of a first line of output finds the start, too."""
        if self.begun:
            began = {"at": self._started["at"], "ports": self._started["ports"], "node": self.node}
            write_once(self.begun, {**began, "host": _host(self.node), "job": os.environ.get("SLURM_JOB_ID", "")})
            self.begun = ""

    def _make_groups(self) -> None:
        if not str(self._launch["limits"]["by"]).startswith("slurm"):
            super()._make_groups()
            return
        for rank in self._launch["ranks"]:
            self._groups[rank["rank"]] = JobGroup(f"{self._key}.{rank['rank']}")

    def _run_ranks(self) -> None:
        if self.go:
            write_once(self.go, {"master_port": self._master_port})
        super()._run_ranks()


class Node:
    """The part of an attempt that runs on this node."""

    def __init__(self, folder: str, launch: Mapping[str, Any], secrets: Mapping[str, str], node: str) -> None:
        self._folder, self._node, self._key = folder, node, str(launch["key"])
        self._nodes = nodes_of(launch)
        self._alone, self._first = len(self._nodes) == 1, node == launch["ranks"][0]["node"]
        self._launch = launch_on(launch, node, granted(os.environ))
        if launch.get("shared_as") == "mps":
            pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or _MPS_PIPES
            self._launch["mps"] = pipes if os.path.isdir(pipes) or not launch.get("image") else None
        self._secrets, self._read_to = secrets, 0
        self._asks = f"{launch.get('asks', folder)}/requests"
        self._supervisor, self._state = 0, -1
        self._stopped_for_others = False
        self._use_due_s = 0.0

    def run(self) -> dict[str, Any]:
        """Run it and return its end."""
        if not self._alone and not self._first:
            gone = self._wait_for_go()
            if gone is not None:
                return gone
        scratch = tempfile.mkdtemp(prefix="dujiang-")
        try:
            return self._supervise(scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _supervise(self, scratch: str) -> dict[str, Any]:
        home = NodeHome(self._launch["root"], scratch, self._folder)
        write_whole(home.launch(self._key), {name: value for name, value in self._launch.items() if name != "root"})
        write_whole(home.secrets(self._key), dict(self._secrets))
        self._state = records.create_state(home.state(self._key))
        records.take_lock(self._state)
        self._supervisor = os.fork()
        if self._supervisor == 0:
            go = "" if self._alone or not self._first else self._at("go.json")
            _be_supervisor(
                home, self._key, self._state, go=go, begun=self._at("started.json") if self._first else "",
                node=self._node,
            )  # fmt: skip
        self._watch()
        end = records.read_end(self._state) or _lost("what watched over the program ended without a word")
        end["facts"] = {**end["facts"], **(read_whole(home.facts(self._key)) or {})}
        os.close(self._state)
        return end

    def _watch(self) -> None:
        told, wait_s = False, 0.005
        while True:
            told = told or records.read_started(self._state) is not None
            self._forward_requests()
            self._follow_failure()
            self._tell_use()
            longest_s = min(_POLL_S if self._alone else _POLL_TOGETHER_S, float(self._launch["use_every_s"]))
            wait_s = min(wait_s * 1.5, longest_s) if told else 0.01
            heard = signal.sigtimedwait(_HEARD, wait_s)
            if heard is None or heard.si_signo == WAKE:
                continue
            if heard.si_signo in (WARNED, signal.SIGTERM):
                _kill(self._supervisor, signal.SIGTERM)
            elif os.waitpid(self._supervisor, os.WNOHANG)[0]:
                return

    def _tell_use(self) -> None:
        now_s = records.monotonic_s()
        if now_s < self._use_due_s:
            return
        self._use_due_s = now_s + float(self._launch["use_every_s"])
        cores = sum(int(rank["cpu_milli"]) for rank in self._launch["ranks"]) / 1000
        used_s = procfs.cpu_s(procfs.descendants(self._supervisor))
        with contextlib.suppress(OSError):  # a full disk must not end what runs
            os.makedirs(self._at("use"), mode=0o750, exist_ok=True)
            sample = self._at(f"use/{self._node}.json")
            write_whole(sample, {"at_s": now_s, "cpu_s": used_s, "cores": cores})
            os.chmod(sample, READABLE)

    def _forward_requests(self) -> None:
        asked, self._read_to = read_requests(self._asks, self._read_to)
        for word, value in asked:
            if word == "stop":
                records.request_stop(self._state, max(0.0, value))
            elif word == "signal" and 1 <= value <= 64:
                records.request_signal(self._state, int(value))
        if asked:
            _kill(self._supervisor, KICK)

    def _follow_failure(self) -> None:
        """Stop what runs here when the attempt has failed on another node."""
        if self._alone or self._stopped_for_others or not os.path.exists(self._at("failed.json")):
            return
        self._stopped_for_others = True
        records.request_stop(self._state, min(5.0, float(self._launch["grace_s"])))
        _kill(self._supervisor, KICK)

    def _wait_for_go(self) -> dict[str, Any] | None:
        """Wait until the setup on the first node is done; return the end when there is nothing to start."""
        deadline = time.monotonic() + _GO_WITHIN_S
        while time.monotonic() < deadline:
            if (go := read_whole(self._at("go.json"))) is not None:
                self._launch["master_port"] = go["master_port"]
                return None
            if os.path.exists(self._at("failed.json")) or os.path.exists(self._at(f"part-{self._nodes[0]}.json")):
                break
            heard = signal.sigtimedwait((signal.SIGTERM, WARNED), 0.1)
            if heard is not None:
                break
        return {**_lost("the first node never came as far as its program"), "end": "Stopped", "evidence": []}

    def _at(self, name: str) -> str:
        return f"{self._folder}/{name}"


def prepare() -> str:
    """Make this process ready for signals, with a home; return the name of its node."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (*_HEARD, KICK))
    for number in (WARNED, KICK):
        signal.signal(number, signal.SIG_DFL)  # the batch script had them ignored until now
    with contextlib.suppress(KeyError):  # over REST a job has no environment but what it was given
        me = pwd.getpwuid(os.getuid())
        for name, value in (("HOME", me.pw_dir), ("USER", me.pw_name), ("LOGNAME", me.pw_name)):
            os.environ.setdefault(name, value)
    return os.environ.get("SLURMD_NODENAME", "")


def main(arguments: Sequence[str]) -> int:
    """Be the batch script, or one of its nodes; return the exit status."""
    folder, node = arguments[0], prepare()
    if arguments[1:] == ["node"]:
        launch = read_whole(f"{folder}/launch.json")
        if launch is None:
            return 1
        if (placed := read_whole(f"{folder}/placed.json")) is not None:
            launch = settled(launch, placed["nodes"])
        part = Node(folder, launch, json.load(sys.stdin), node).run()
        if part["end"] not in ("Exited", "Stopped") or part["exit_code"]:
            write_once(f"{folder}/failed.json", {"node": node})
        write_once(f"{folder}/part-{node}.json", part)
        return 0
    if not claim(folder, node):
        return 0
    launch = read_whole(f"{folder}/launch.json")
    secrets = read_whole(f"{folder}/secrets.json") or {}
    with contextlib.suppress(OSError):
        os.unlink(f"{folder}/secrets.json")
    return carry_out(folder, node, launch, secrets)


def claim(folder: str, node: str) -> bool:
    """Take the attempt; False when it has run already, or must not run."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if write_once(f"{folder}/claim.json", {"job": job, "node": node, "at": records.wall_us()}):
        return True
    sys.stdout.write(f"the attempt in {folder} has run already or must not run: nothing is started\n")
    return False


def carry_out(folder: str, node: str, launch: Mapping[str, Any] | None, secrets: Mapping[str, str]) -> int:
    """Run a claimed attempt and write down how it ended; return the exit status of the batch script."""
    end = _run(folder, node, launch, secrets)
    write_once(f"{folder}/end.json", end)
    if end["signal"]:
        return 128 + int(end["signal"])
    return 1 if end["exit_code"] is None else int(end["exit_code"])


def _run(folder: str, node: str, launch: Mapping[str, Any] | None, secrets: Mapping[str, str]) -> dict[str, Any]:
    if launch is None:
        return {**_lost(f"the launch record in {folder} cannot be read on {node}"), "end": "LaunchFailed"}
    try:
        if "addresses" not in launch:
            return _run_on(folder, node, launch, secrets)
        nodes = chosen(os.environ.get("SLURM_JOB_NODELIST", node), node)
        write_once(f"{folder}/placed.json", {"nodes": nodes})
        end = _run_on(folder, node, settled(launch, nodes), secrets)
        why = f"Slurm chose {', '.join(nodes)}; the platform held {', '.join(nodes_of(launch))}"
        return {**end, "evidence": [*end["evidence"], ["runner", why, None]]} if nodes != nodes_of(launch) else end
    except Exception as error:  # whatever it was, the platform is to read of it
        traceback.print_exc()
        return {**_lost(f"it cannot be started on {node}: {error}"), "end": "LaunchFailed"}


def _run_on(folder: str, node: str, launch: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    if nodes_of(launch) == [node]:
        return Node(folder, launch, secrets, node).run()
    return _run_together(folder, launch, secrets)


def _run_together(folder: str, launch: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    nodes = nodes_of(launch)
    words = ["srun", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", "--input=all"]
    words += ["--kill-on-bad-exit=0", f"--cpus-per-task={launch['cpus_per_node']}", "--export=ALL"]
    words += [sys.executable, "-sS", sys.argv[0], folder, "node"]
    step = subprocess.Popen(words, stdin=subprocess.PIPE)
    step.communicate(json.dumps(dict(secrets)).encode())
    parts = {name: part for name in nodes if (part := read_whole(f"{folder}/part-{name}.json")) is not None}
    failed = (read_whole(f"{folder}/failed.json") or {}).get("node")
    return together(nodes, parts, failed, f"srun ended with {step.returncode}")


def together(
    nodes: Sequence[str], parts: Mapping[str, Mapping[str, Any]], failed: str | None, step: str
) -> dict[str, Any]:
    """Return the end of an attempt of several nodes from those of its nodes: the first failure decides.

    Args:
        nodes: in the order of ranks.
        parts: the end on each node, as far as it wrote one.
        failed: the node that failed before the others.
        step: what is known of the step that ran them, for evidence.
    """
    silent = [node for node in nodes if node not in parts]
    if failed in parts:
        first = dict(parts[str(failed)])
    elif silent:
        first = {**_lost(f"no word of its end from {', '.join(silent)}; {step}"), "end": "NodeLost"}
    else:
        stopped = [node for node in nodes if parts[node]["end"] != "Exited"]
        first = dict(parts[(stopped or nodes)[0]])
    ran = {rank: how for node in nodes if node in parts for rank, how in parts[node]["facts"].get("ranks", {}).items()}
    facts = {**(parts[nodes[0]]["facts"] if nodes[0] in parts else {}), "ranks": ran}
    evidence = [line for node in nodes if node in parts for line in parts[node]["evidence"]]
    last = max([int(part["at"]) for part in parts.values()], default=records.wall_us())
    return {**first, "at": last, "facts": facts, "evidence": evidence or first["evidence"]}


def nodes_of(launch: Mapping[str, Any]) -> list[str]:
    """Return the nodes of a launch, each once, in the order of ranks."""
    return list(dict.fromkeys(rank["node"] for rank in launch["ranks"]))


def granted(environ: Mapping[str, str]) -> list[str]:
    """Return the devices that Slurm gave the job on this node, as programs name them."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        if environ.get(name, "") not in ("", "NoDevFiles"):
            return environ[name].split(",")
    return []


def launch_on(launch: Mapping[str, Any], node: str, devices: Sequence[str]) -> dict[str, Any]:
    """Return what a node's supervisor is to run: its ranks, with the devices that Slurm chose.

    The setup and the lineage are the first rank's.

    Raises:
        RuntimeError: it takes a share, and Slurm does not say of which device: any would be somebody else's.
    """
    own = [dict(rank) for rank in launch["ranks"] if rank["node"] == node]
    given: dict[str, str] = {}
    for rank in own:
        shares = [dict(share) for share in rank["devices"]]
        for share in shares:
            nth = len(given)
            if share["name"] not in given and nth >= len(devices) and launch.get("granted_only"):
                raise RuntimeError("Slurm did not say which device the job has a share of")
            share["name"] = given.setdefault(share["name"], devices[nth] if nth < len(devices) else str(share["index"]))
        rank["devices"] = shares
    several = len(nodes_of(launch)) > 1
    shared = {"world": len(launch["ranks"]), "master_addr": launch["master_addr"]} if several else {}
    if launch.get("image"):
        shared["record_environment"] = False  # it would be the node's, not the image's
    if launch["ranks"][0]["node"] != node:
        shared |= {"setup": "", "inputs": [], "record_environment": False}
    return {**launch, **shared, "ranks": own}


def read_requests(path: str, offset: int) -> tuple[list[tuple[str, float]], int]:
    """Return the whole lines behind an offset, and where to go on; what makes no sense is passed over."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read()
    except OSError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    asked: list[tuple[str, float]] = []
    for line in whole.decode(errors="replace").splitlines():
        word, _, value = line.partition(" ")
        with contextlib.suppress(ValueError):
            asked.append((word, float(value)))
    return asked, offset + len(whole)


def write_once(path: str, payload: dict[str, Any]) -> bool:
    """Make a file with its whole content; False when it is there already. Holds on NFS: a link is made or it is not."""
    draft = f"{path}.{socket.gethostname()}.{os.getpid()}"
    write_whole(draft, payload)
    os.chmod(draft, READABLE)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)
    return True


def memory_folder(root: str = "/sys/fs/cgroup", groups: str = "/proc/self/cgroup") -> str:
    """Return the folder of the limit group that holds this process's memory, empty where there is none."""
    with contextlib.suppress(OSError):
        for line in read(groups).splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                return f"{root}/memory{path}"
            if not controllers and os.path.exists(f"{root}{path}/memory.events"):
                return f"{root}{path}"
    return ""


def oom_kills_in(folder: str) -> int:
    """Return the kernel's count of kills at the memory limit of a group; 0 where nothing counts."""
    for file in ("memory.oom_control", "memory.events"):
        with contextlib.suppress(OSError):
            for line in read(f"{folder}/{file}").splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def _be_supervisor(home: NodeHome, key: str, state: int, *, go: str, begun: str, node: str) -> None:
    """Be the supervisor of this node's ranks; never returns."""
    code = 1
    try:
        os.setsid()
        nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nothing, 0)
        adopt_orphans()
        scratch = os.open(home.scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        supervisor = NodeSupervisor(home, key, state, scratch)
        supervisor.go, supervisor.begun, supervisor.node = go, begun, node
        supervisor.run()
        code = 0
    except BaseException:  # the process ends here whatever it was; the batch script writes that it is lost
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(code)


def _lost(why: str) -> dict[str, Any]:
    return {
        "end": "Lost", "exit_code": None, "signal": None, "rank": None, "at": records.wall_us(),
        "evidence": [["runner", why, records.wall_us()]], "facts": {}, "final": True,
    }  # fmt: skip


def _host(node: str) -> str:
    """Return where others reach this node: its name in Slurm where that is a name of the network too."""
    with contextlib.suppress(OSError):
        socket.getaddrinfo(node, None)
        return node
    return "127.0.0.1"


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
