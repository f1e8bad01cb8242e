"""Container images made by hand, so that no registry is needed: busybox, and one for this machine's own Python."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.kubernetes.machine import path_of

BUSYBOX = "dujiang.test/busybox:1"
PAUSE = "dujiang.test/pause:1"
HOST_PYTHON = "dujiang.test/host-python:1"
APPLETS = (
    "sh ash cat chmod chown cp cut date dd df dirname echo env expr false find grep head hostname id ip kill ln ls "
    "mkdir mknod mktemp mount mv nc nproc od ping printf ps pwd readlink rm rmdir sed seq sha256sum sleep sort stat "
    "sync tail tee test timeout touch tr true tty umount uname uniq usleep vi wc wget which whoami xargs yes ["
)
ROOT_LINKS = ("bin", "sbin", "lib", "lib64")
USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
LOOK_UPS = b"hosts: files dns\n"  # without it glibc would not find a pod's own name
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def busybox(name: str = BUSYBOX, command: Sequence[str] = ("/bin/sh",)) -> bytes:
    """Return an archive of an image with a shell and the usual small programs in /bin."""
    files = {"bin/busybox": Path(path_of("busybox")).read_bytes(), "etc/passwd": USERS.encode()}
    links = {f"bin/{applet}": "busybox" for applet in APPLETS.split()}
    return archive(name, _layer(("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr/bin"), files, links), command)


def pause() -> bytes:
    """Return an archive of the image that holds the network of a pod."""
    return busybox(PAUSE, ("/bin/sleep", "2147483647"))


def host_python(name: str = HOST_PYTHON, path: str = PATH) -> bytes:
    """Return an archive of an image that has nothing of its own: a pod mounts this machine's programs into it.

    Args:
        name: of the image.
        path: where its programs are looked for.
    """
    folders = ["dev", "etc", "proc", "root", "sys", "tmp", "usr"]
    links = {}
    for root in ROOT_LINKS:
        if Path(f"/{root}").is_symlink():
            links[root] = os.readlink(f"/{root}")
        elif Path(f"/{root}").is_dir():
            folders.append(root)
    layer = _layer(folders, {"etc/passwd": USERS.encode(), "etc/nsswitch.conf": LOOK_UPS}, links)
    return archive(name, layer, ("/bin/sh",), {"PATH": path})


def host_folders(*more: Path) -> list[Path]:
    """Return the folders of this machine that `HOST_PYTHON` needs so that this very Python runs in it.

    Args:
        more: others that are wanted, each at the same path as here.
    """
    own = [Path("/usr"), *(Path(f"/{name}") for name in ROOT_LINKS)]
    wanted = [path for path in own if path.is_dir() and not path.is_symlink()]
    for path in (Path(sys.base_prefix), Path(sys.prefix), *more):
        if not any(path.is_relative_to(each) for each in wanted):
            wanted.append(path)
    return wanted


def host_mounts(*more: Path) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Return the `volumes` of a pod and the `volumeMounts` of its container for `host_folders`, only to be read."""
    folders = host_folders(*more)
    volumes: list[dict[str, object]] = [
        {"name": f"host-{number}", "hostPath": {"path": str(path), "type": "Directory"}}
        for number, path in enumerate(folders)
    ]
    mounts: list[dict[str, object]] = [
        {"name": f"host-{number}", "mountPath": str(path), "readOnly": True} for number, path in enumerate(folders)
    ]
    return volumes, mounts


def archive(name: str, layer: bytes, command: Sequence[str], env: Mapping[str, str] | None = None) -> bytes:
    """Return an image of one layer, as `docker save` writes it and containerd imports it."""
    variables = [f"{key}={value}" for key, value in {"PATH": PATH, **(env or {})}.items()]
    content = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Cmd": list(command), "Env": variables},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    config = json.dumps(content).encode()
    told = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": told, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    return _tar({"manifest.json": manifest, told: config, "layer.tar": layer})


def _layer(folders: Sequence[str], files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    parents = {str(parent) for name in (*folders, *files, *links) for parent in Path(name).parents} - {"."}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in sorted({*folders, *parents}):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if "bin/" in name else 0o644
            tar.addfile(entry, io.BytesIO(content))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            tar.addfile(entry)
    return buffer.getvalue()


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
