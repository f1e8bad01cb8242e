"""Kubernetes, etcd, CoreDNS, KWOK and a device plugin of our own, compiled once into a cache outside the repository.

Each folder under `parts/` is a Go module that pins what it needs in go.sum. The first build takes minutes, 12 on two
cores; what is there already for the same pins is taken at once. `DUJIANG_TEST_PARTS` names another folder for it all.
Kueue (`kueue_part/`) is apart: it is built only for the tests that are of it, into a folder beside.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

MODULES = Path(__file__).parent / "parts"
KUEUE = Path(__file__).parent / "kueue_part"
PROGRAMS = (
    "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet", "server", "dns", "kwok",
    "plugin",
)  # fmt: skip
# What KWOK does to nodes and pods is said in files of its module; these are laid beside the programs.
STAGES = (
    "node/fast/node-initialize", "node/heartbeat-with-lease/node-heartbeat-with-lease", "pod/fast/pod-ready",
    "pod/fast/pod-complete", "pod/fast/pod-delete", "pod/general/pod-complete",
)  # fmt: skip
# Without it every program says that it is of no version.
LINKED = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3"
GO = (1, 21)  # from here on Go fetches by itself the newer one that a go.mod asks for


class MissingParts(Exception):
    """The programs are not here and cannot be built; the sentence says why."""


def build() -> Path:
    """Return the folder of the programs, which are built there where they are missing.

    Raises:
        MissingParts: not possible here.
    """
    return _built(place(), _build)


def build_kueue() -> Path:
    """Return the folder of Kueue and of what a cluster is told of it, built where it is missing: see `build`."""
    return _built(place().with_name(f"kueue-{_pins(KUEUE, LINKED)}"), _build_kueue)


def _built(folder: Path, fill: Callable[[Path], None]) -> Path:
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be building: then wait and take what it made
        if not folder.is_dir():
            _check_go()
            unfinished = folder.with_name(f".{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            fill(unfinished)
            unfinished.rename(folder)
    return folder


def _build(into: Path) -> None:
    for module in sorted(path for path in MODULES.iterdir() if (path / "go.mod").exists()):
        _compile(module, into)
    _copy_stages(into / "stages")
    _check_built(into, PROGRAMS)


def _build_kueue(into: Path) -> None:
    _compile(KUEUE, into)
    components = _module_folder(KUEUE, "sigs.k8s.io/kueue") / "config" / "components"
    shutil.copytree(components / "crd" / "bases", into / "crd", copy_function=shutil.copyfile)
    (into / "crd").chmod(0o755)  # Go lets nobody write into its modules
    shutil.copyfile(components / "webhook" / "manifests.yaml", into / "webhooks.yaml")
    _check_built(into, ("kueue",))


def place() -> Path:
    """Return where the programs are, or would be: each set of pins has its own folder."""
    named = os.environ.get("DUJIANG_TEST_PARTS")
    if named:
        return Path(named).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    pins = _pins(MODULES, repr((PROGRAMS, STAGES, LINKED)))
    return Path(cache).expanduser().resolve() / "dujiang" / "parts" / f"kubernetes-{pins}"


def _pins(folder: Path, more: str) -> str:
    """Return what is another once any file of a folder is, or what else is told."""
    pins = hashlib.sha256(more.encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        pins.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return pins.hexdigest()[:12]


def _check_go() -> None:
    how = f"install Go {GO[0]}.{GO[1]} or newer, and let it reach a module proxy"
    if shutil.which("go") is None:
        raise MissingParts(f"Kubernetes is compiled for these tests, and there is no Go: {how}")
    said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout.strip()
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < GO:
        raise MissingParts(f"Kubernetes is compiled for these tests, and Go is too old ({said or 'unknown'}): {how}")


def _compile(module: Path, into: Path) -> None:
    began = time.monotonic()
    _say(f"building {module.name} for the tests of Kubernetes, which takes minutes the first time")
    what = "tool" if re.search(r"^tool\b", (module / "go.mod").read_text(), re.MULTILINE) else "."
    words = ["go", "build", "-mod=readonly", "-buildvcs=false", "-o", f"{into}/", "-ldflags", LINKED, what]
    done = subprocess.run(words, cwd=module, env=_go_env(), stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise MissingParts(f"{module.name} does not build: {done.stderr.strip()[-2000:]}")
    _say(f"built {module.name} in {time.monotonic() - began:.0f} s")


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()


def _go_env() -> dict[str, str]:
    return {**os.environ, "GOWORK": "off", "GOFLAGS": ""}


def _copy_stages(into: Path) -> None:
    folder = _module_folder(MODULES / "kwok", "sigs.k8s.io/kwok")
    for name in STAGES:
        target = into / f"{name}.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "kustomize" / "stage" / f"{name}.yaml", target)


def _module_folder(asking: Path, module: str) -> Path:
    """Return where a module that one of ours pins lies."""
    words = ["go", "list", "-m", "-f", "{{.Dir}}", module]
    done = subprocess.run(words, cwd=asking, env=_go_env(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingParts(f"where {module} lies is not known: {done.stderr.strip()}")
    return Path(done.stdout.strip())


def _check_built(folder: Path, programs: Iterable[str]) -> None:
    missing = [name for name in programs if not os.access(folder / name, os.X_OK)]
    if missing:
        raise MissingParts(f"built, but without {', '.join(missing)}")


if __name__ == "__main__":
    print(build())  # noqa: T201
