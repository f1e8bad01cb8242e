"""Jobs with an image on a Slurm cluster: by pyxis, an extension of `srun`, or by Apptainer on the nodes.

A program of a rank is the command of one of them, which the supervisor starts in its place. That the image could be had
is known by a file which the container's shell makes before it becomes the program: without it, a failure is not the
program's. Standard library only: it runs on the nodes (`archive`).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dujiang.engines.local.containers import SHELL, bind, mounted
from dujiang.engines.local.home import Home
from dujiang.engines.local.outcome import Death
from dujiang.engines.local.supervisor import Supervisor

PYXIS, APPTAINER, SINGULARITY = "pyxis", "apptainer", "singularity"
_BEGINS = 'echo > "$0"; exec "$@"'
_LONGEST_TAIL = 1500
_IN_NO_LIST = re.compile(r'[,:"\s]')
"""Pyxis lists mounts with commas and colons, and knows no quotes."""


def refuse_unmountable(launch: Mapping[str, Any]) -> str:
    """Return what is wrong with a path of a launch that pyxis could not mount; empty when nothing is."""
    if launch["image"]["by"] != PYXIS:
        return ""
    bad = [path for path in (launch["root"], *_mounts(launch, "")) if _IN_NO_LIST.search(path)]
    return f"pyxis cannot mount {bad[0]!r}: no path may hold blanks, commas, colons or quotes" if bad else ""


def docker_reference(image: str) -> str:
    """Return a reference without its tag where it has a digest, which says more: both at once are refused."""
    name, at, digest = image.partition("@")
    return f"{name[: name.rindex(':')] if ':' in name.rpartition('/')[2] else name}{at}{digest}" if digest else image


def enroot_reference(image: str) -> str:
    """Return a reference as enroot writes it, with a `#` behind the registry."""
    first, slash, rest = docker_reference(image).partition("/")
    if slash and (first == "localhost" or re.search(r"[.:]", first)):
        return f"{first}#{rest}"
    return docker_reference(image)


def wrapped(
    launch: Mapping[str, Any], rank: Mapping[str, Any], arguments: Sequence[str], *, folder: str, mark: str,
    names: Sequence[str], output_dir: str, cpus: int,
) -> list[str]:  # fmt: skip
    """Return the command that runs a program in the launch's image.

    Args:
        launch: the record.
        rank: whose program it is.
        arguments: the program.
        folder: of the attempt, seen inside.
        mark: the file that says that the image could be had.
        names: variables of the job's own, which count more than those of the image.
        output_dir: the attempt's.
        cpus: of the job on this node.
    """
    image = launch["image"]
    inner = [SHELL, "-c", _BEGINS, mark, *arguments]
    paths = _mounts(launch, folder, output_dir)
    if image["by"] == PYXIS:
        visible = ",".join(str(device["name"]) for device in rank["devices"])
        inner = ["env", f"CUDA_VISIBLE_DEVICES={visible}", *inner]  # a step sees all devices of the job
        return [
            "srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={rank['node']}", f"--cpus-per-task={cpus}",
            "--export=ALL", "--kill-on-bad-exit=0", "--unbuffered",
            f"--container-image={enroot_reference(image['reference'])}",
            f"--container-mounts={','.join(f'{path}:{path}' for path in paths)}",
            f"--container-workdir={launch['workdir']}", "--container-writable", "--no-container-mount-home",
            *([f"--container-env={','.join(names)}"] if names else []), *image["options"], *inner,
        ]  # fmt: skip
    devices = ["--nv"] if rank["devices"] else []
    return [
        image["by"], "--quiet", "exec", "--no-eval", "--no-home", "--writable-tmpfs", *devices, *image["options"],
        *(word for path in paths for word in ("--mount", bind(path))), "--pwd", launch["workdir"],
        f"docker://{docker_reference(image['reference'])}", *inner,
    ]  # fmt: skip


def _mounts(launch: Mapping[str, Any], folder: str, output_dir: str = "") -> tuple[str, ...]:
    inputs = [str(wanted["path"]) for wanted in launch["inputs"]]
    there = [path for path in inputs if os.path.isabs(path) and (not folder or os.path.exists(path))]
    return mounted(launch, [folder, output_dir, *launch["image"]["mounts"]], there)


class ImageSupervisor(Supervisor):
    """The local engine's supervisor, with programs in images where the launch has one."""

    def __init__(self, home: Home, key: str, state_fd: int, home_fd: int) -> None:
        super().__init__(home, key, state_fd, home_fd)
        self._marks: dict[int, str] = {}
        self._last_mark = ""

    def _start(self, rank: int, text: str, name: str) -> int:
        pid = super()._start(rank, text, name)
        if self._launch.get("image"):
            self._marks[pid] = self._last_mark
        return pid

    def _compose(self) -> None:
        """Give Apptainer the job's own variables once more, in the way that they count more than the image's."""
        super()._compose()
        by = str((self._launch.get("image") or {}).get("by"))
        prefix = {APPTAINER: "APPTAINERENV_", SINGULARITY: "SINGULARITYENV_"}.get(by)
        for rank, now in self._environments.items() if prefix else ():
            now |= {f"{prefix}{name}": now[name] for name in self._own_names(rank)}

    def _script_folder(self) -> str:
        if not self._launch.get("image"):
            return super()._script_folder()
        folder = f"{self._home.folder(self._key)}/room"
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return folder

    def _wrapped(self, rank: int, name: str, arguments: list[str]) -> list[str]:
        if not self._launch.get("image"):
            return arguments
        folder = self._script_folder()
        self._last_mark = f"{folder}/inside-{name}-{rank}"
        place = next(one for one in self._launch["ranks"] if one["rank"] == rank)
        words = wrapped(
            self._launch, place, arguments, folder=folder, mark=self._last_mark, names=self._own_names(rank),
            output_dir=self._home.output_dir(self._key), cpus=int(self._launch.get("cpus_per_node", 1)),
        )  # fmt: skip
        return [_found(words[0], self._environments[rank]), *words[1:]]

    def _own_names(self, rank: int) -> list[str]:
        """Return the variables that are the job's: what it was given beyond the environment of the node."""
        now = self._environments[rank]
        return sorted(name for name, value in now.items() if os.environ.get(name) != value)

    def _note_death(self, pid: int, death: Death) -> None:
        mark = self._marks.pop(pid, None)
        if mark is not None and death.failed and self._stop is None and not os.path.exists(mark):
            rank = max(0, self._leaders.get(pid, 0))
            self._failure = (
                f"the image {self._launch['image']['reference']} cannot be had: "
                f"{_tail(self._home.output(self._key, rank)) or death}"
            )
        super()._note_death(pid, death)


def _found(program: str, environment: Mapping[str, str]) -> str:
    """Return where a program is: `execve` does not look."""
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        if os.access(f"{folder}/{program}", os.X_OK):
            return f"{folder}/{program}"
    return program


def _tail(path: str) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LONGEST_TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-4:])
    return ""
