"""Finds out, by asking them, which container runtime of this machine can run a job's image.

What is lacking is said in one sentence, for `dujiang doctor`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from dujiang.engines.local.containers import PROGRAMS, Runtime
from dujiang.engines.local.rooms import run
from dujiang.engines.local.settings import LocalSettings

INSTALL = "no container image can be run: install podman, Docker or containerd"
_PASSED_ON = (
    *(
        "XDG_RUNTIME_DIR",
        "DBUS_SESSION_BUS_ADDRESS",
        "CONTAINERS_CONF",
        "CONTAINERS_STORAGE_CONF",
        "REGISTRY_AUTH_FILE",
    ),
    *("CONTAINERS_REGISTRIES_CONF", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_CERT_PATH"),
    *("DOCKER_TLS_VERIFY", "CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "CONTAINERD_SNAPSHOTTER"),
)
"""What of the platform's environment the runtimes' commands get, and jobs do not."""
_ASKED: Mapping[str, tuple[str, ...]] = {
    "podman": ("info", "--format", "{{.Host.Security.Rootless}}"),
    "docker": ("info", "--format", "{{.ServerVersion}} {{.SecurityOptions}}"),
    "containerd": ("version",),
}
_ANSWERS_WITHIN_S = 10.0
_LONGEST_COMPLAINT = 200


@dataclass(frozen=True, slots=True)
class FoundRuntime:
    """The runtime that is used, or what is missing."""

    runtime: Runtime | None
    missing: tuple[str, ...] = ()


def find_runtime(settings: LocalSettings, environ: Mapping[str, str] = os.environ) -> FoundRuntime:
    """Return the first runtime that answers and whose containers this process may enter; blocking."""
    wanted = settings.container_runtime
    if wanted == "none":
        return FoundRuntime(None, ("container images are switched off in the settings (container_runtime)",))
    complaints: list[str] = []
    for name in PROGRAMS if wanted == "auto" else (wanted,):
        program = shutil.which(PROGRAMS[name], path=environ.get("PATH"))
        if program is None:
            if wanted != "auto":
                complaints.append(f"{PROGRAMS[name]} is not in PATH")
            continue
        env = {variable: environ[variable] for variable in _PASSED_ON if variable in environ}
        runtime = Runtime(name, (program, *settings.container_options), env, settings.container_registry)
        complaint = _complaint(runtime)
        if not complaint:
            return FoundRuntime(runtime)
        complaints.append(f"{name}: {complaint}")
    return FoundRuntime(
        None, (f"{INSTALL}{' (' if complaints else ''}{'; '.join(complaints)}{')' if complaints else ''}",)
    )


def _complaint(runtime: Runtime) -> str:
    status, said = run([*runtime.words, *_ASKED[runtime.name]], runtime.env, _ANSWERS_WITHIN_S)
    if status or (runtime.name == "docker" and not said.split()[:1]):
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return (lines[-1] if lines else f"status {status}")[-_LONGEST_COMPLAINT:]
    if os.geteuid() != 0 and runtime.name != "podman" and "name=rootless" not in said:
        return "its containers are root's, and the platform is not root"
    return ""
