"""A real Slurm of a scratch folder: munge, slurmctld and several slurmd on loopback ports, each ended by its number.

Its nodes offer more processors than the machine has (`config_overrides`) and GPUs that are links to /dev/null: Slurm
counts, hands out and isolates them like others.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from tests.slurm import database

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "slurmrestd")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurmrestd", "munge", "slurm-wlm-basic-plugins",
            "slurm-wlm-jwt-plugin")  # fmt: skip
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
WITHIN_S = 60.0

CONFIG = """\
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={folder}/jwt.key
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/{track}
TaskPlugin=task/{task}
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes={kinds}
TopologyPlugin=topology/tree
ReturnToService=2
SlurmdTimeout=5
KillWait=3
MinJobAge={min_job_age_s}
MaxJobCount=20000
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,default_queue_depth=1000,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
{accounting}{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
"""
CONFINED = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainDevices=yes
ConstrainRAMSpace=yes
"""
NODE = (
    "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=64 Boards=1 SocketsPerBoard=1 "
    "CoresPerSocket=64 ThreadsPerCore=1 RealMemory=512000 Gres=gpu:h100:4{shards} Feature=ib,h100"
)


class MissingSlurm(Exception):
    """Slurm is not here and cannot be installed; the sentence says why."""


def install(programs: Sequence[str] = PROGRAMS, packages: Sequence[str] = PACKAGES) -> None:
    """Install Debian's Slurm, or a further part of it, where it is missing.

    Raises:
        MissingSlurm: not possible here.
    """
    if all(shutil.which(name, path=SEARCHED) for name in programs):
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingSlurm(f"Slurm is not installed, and only root with apt can: apt install {' '.join(packages)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *words], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingSlurm(f"apt-get {words[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


class Cluster:
    """One cluster; a context manager. With `accounting` it has slurmdbd over MariaDB, with `confined` cgroups of v1."""

    rest_plugins: tuple[str, ...] = ("-s", "openapi/v0.0.36,openapi/v0.0.37,openapi/v0.0.38")
    cgroups = "CgroupAutomount=no\n"

    def __init__(
        self, folder: Path, *, nodes: int = 3, min_job_age_s: int = 300, accounting: bool = False,
        confined: bool = False, shards: int = 0, shared_as: str = "shard",
    ) -> None:  # fmt: skip
        self.folder, self.conf, self.accounting = folder, folder / "slurm.conf", accounting
        self.jwt_key, self.confined, self.shards = folder / "jwt.key", confined, shards
        self.shared_as = shared_as
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.env = {**os.environ, "SLURM_CONF": str(self.conf)}
        self._min_job_age_s = min_job_age_s
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        try:
            self._write()
            self._start_munge()
            if self.accounting:
                self._start_accounting()
            self.start_controller()
            for node in self.nodes:
                self.start_node(node)
            self.wait("the nodes", lambda: self.states() == dict.fromkeys(self.nodes, "idle"))
        except BaseException:
            self._stop_all()
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop_all()

    def client(self, *words: str, check: bool = True) -> str:
        """Run a command of Slurm's; returns what it prints."""
        line = self._line(words[0], *words[1:])
        done = subprocess.run(line, env=self.env, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """Return the state of each node, as `sinfo` says it."""
        lines = self.client("sinfo", "-h", "-N", "-p", "all", "-o", "%N %T", check=False).split("\n")
        return {name: state for name, _, state in (line.partition(" ") for line in lines) if name}

    def job_state(self, number: str) -> str:
        """Return a job's state, empty when it is not known."""
        return self.client("squeue", "-h", "-a", "-t", "all", "-j", number, "-o", "%T", check=False).strip()

    def wait(self, what: str, is_so: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + within_s
        while not is_so():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                what = f"{what} ({', '.join(ended)} ended by itself)" if ended else what
                said = "".join(path.read_text()[-600:] for path in sorted(self.folder.glob("*.out")))
                raise AssertionError(f"{what}: not within {within_s:g} s; {self.states()}; {said.strip()}")
            time.sleep(0.1)

    def start_controller(self) -> None:
        """Start slurmctld."""
        self._daemon("slurmctld", "slurmctld", "-D", "-f", str(self.conf))

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._daemon(node, "slurmd", "-D", "-N", node, "-f", str(self.conf))

    def start_rest(self, port: int = 0) -> str:
        """Start slurmrestd for holders of a token; return its URL. It refuses to be root's."""
        port = port or _free_ports(1)[0]
        words = ["slurmrestd", "-a", "rest_auth/jwt", *self.rest_plugins, f"127.0.0.1:{port}"]
        self._daemon("slurmrestd", *words, user="nobody", SLURM_JWT="daemon")
        self.wait("slurmrestd", lambda: _listens(port))
        return f"http://127.0.0.1:{port}"

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """End slurmctld or a node's slurmd."""
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def kill_node(self, node: str) -> None:
        """Take a node away as a power cut does: its slurmd, what watches over its jobs, and their processes."""
        self.stop(node, signal.SIGKILL)
        work = _processes_naming(f"SLURMD_NODENAME={node}\0", str(self.conf))
        steps = [parent for parent in dict.fromkeys(map(_parent, work)) if parent and _command(parent) == "slurmstepd"]
        for pid in [*steps, *work]:  # the steps first, so that they tell of nothing
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _write(self) -> None:
        for name in ("munge", "state", "spool", "dev"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        (self.folder / "munge").chmod(0o711)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self.jwt_key.write_bytes(secrets.token_bytes(32))
        self.jwt_key.chmod(0o600)
        for number in range(4):
            device = self.folder / "dev" / f"nvidia{number}"
            if self.confined:  # numbers of their own, which a limit on devices needs; no driver stands behind them
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(195, number))
                device.chmod(0o666)
            else:
                device.symlink_to("/dev/null")
        ports = _free_ports(3 + len(self.nodes))
        self._dbd_port, self._sql_port = ports.pop(), ports.pop()
        lines = [
            NODE.format(name=name, port=port, shards=f",{self.shared_as}:{self.shards}" if self.shards else "")
            for name, port in zip(self.nodes, ports[1:], strict=True)
        ]
        self.conf.write_text(
            CONFIG.format(
                folder=self.folder, user=getpass.getuser(), ctld_port=ports[0], nodes="\n".join(lines),
                min_job_age_s=self._min_job_age_s,
                kinds=f"gpu,{self.shared_as}" if self.shards else "gpu",
                track="cgroup" if self.confined else "linuxproc", task="cgroup" if self.confined else "none",
                accounting=database.write(self.folder, self._dbd_port, self._sql_port) if self.accounting else "",
            )
        )  # fmt: skip
        (self.folder / "cgroup.conf").write_text(CONFINED if self.confined else self.cgroups)
        (self.folder / "topology.conf").write_text(
            f"SwitchName=s1 Nodes={','.join(self.nodes[:2])}\nSwitchName=s2 Nodes={','.join(self.nodes[2:])}\n"
            "SwitchName=top Switches=s1,s2\n"
        )
        (self.folder / "gres.conf").write_text(
            f"AutoDetect=off\nNodeName={','.join(self.nodes)} Name=gpu Type=h100 File={self.folder}/dev/nvidia[0-3]\n"
            + (f"NodeName={','.join(self.nodes)} Name={self.shared_as} Count={self.shards}\n" if self.shards else "")
        )

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        self._daemon(
            "munged", "munged", "--foreground", "--force", f"--socket={munge}/socket",
            f"--key-file={self.folder}/munge.key", f"--pid-file={munge}/pid", f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
        )  # fmt: skip
        self.wait("munge", lambda: (munge / "socket").exists())

    def _start_accounting(self) -> None:
        self._daemon("mariadbd", *database.server(self.folder, self._sql_port))
        self.wait("the database", lambda: _listens(self._sql_port))
        self.start_accounts()
        self.client("sacctmgr", "-i", "add", "cluster", "tests", check=False)

    def start_accounts(self) -> None:
        """Start slurmdbd."""
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self.wait("slurmdbd", lambda: _listens(self._dbd_port))

    def _daemon(self, name: str, program: str, *words: str, user: str = "", **variables: str) -> None:
        line = self._line(program, *words, user=user if os.geteuid() == 0 else "")
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                line, env={**self.env, **variables}, stdout=output, stderr=output, start_new_session=True
            )

    def _line(self, program: str, *words: str, user: str = "") -> list[str]:
        """Return the command that runs a program, as another user where one is named."""
        as_user = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"] if user else []
        return [*as_user, _path(program), *words]

    def _stop_all(self) -> None:
        if "slurmctld" in self._daemons:
            for node in set(self.nodes) - set(self._daemons):
                self.start_node(node)
            me = getpass.getuser()
            self.client("scancel", "--signal=KILL", "--full", "-u", me, check=False)
            self.client("scancel", "-u", me, check=False)
            with contextlib.suppress(AssertionError):
                self.wait("the jobs to be gone", lambda: not self.client("squeue", "-h", check=False).strip(), 20)
        for name in ["slurmrestd", *self.nodes, "slurmctld", "slurmdbd", "mariadbd", "munged"]:
            if name in self._daemons:
                self.stop(name)
        if self.confined:
            self._remove_groups()

    def _remove_groups(self) -> None:
        """Remove the limit groups that slurmd leaves behind."""
        for top in Path("/sys/fs/cgroup").glob("*/slurm*"):
            if top.name.partition("_")[2] in ("", *self.nodes):
                for folder, _, _ in os.walk(top, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)


def _processes_naming(*marks: str) -> list[int]:
    """Return the processes in whose environment all of these stand."""
    found: list[int] = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                environ = Path(f"/proc/{entry}/environ").read_bytes()
                if all(mark.encode() in environ for mark in marks):
                    found.append(int(entry))
    return found


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _path(name: str) -> str:
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        raise MissingSlurm(f"{name} is not there")
    return found
