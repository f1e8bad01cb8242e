"""What can be set about the local engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """The local engine's settings. The defaults fit one machine that the platform shares with its jobs."""

    node_name: str = ""
    """Empty takes the host's name. Changing it makes running attempts stand on an unknown node."""
    reserve_cpu_milli: int = 0
    """Kept from work. Too little slows the platform under load, too much idles cores."""
    reserve_memory_bytes: int = 512 << 20
    """Kept from work. Too little and the kernel kills for memory where no job is at its limit."""
    reserve_disk_bytes: int = 1 << 30
    """Kept from work; below a tenth of it the node is not ready."""
    limit_groups: bool = True
    """Whether to use limit groups (cgroups) where they are writable; without, rlimits and binding to cores."""
    poll_s: float = 0.25
    """How often running attempts are looked at when nothing was heard: what a lost notice costs, or idling."""
    start_timeout_s: float = 15.0
    """How long a start may take before the caller is told to ask again. Too little doubles work on a slow machine."""
    takeover_s: float = 5.0
    """How long to wait for an earlier platform process of the same home to be gone."""
    hash_limit_bytes: int = 20 << 30
    """Inputs larger than this are recorded by a manifest (names, sizes, times) instead of by content."""
    shell: str = "/bin/sh"
    pass_env: tuple[str, ...] = ()
    """Further variables of the platform's environment that jobs inherit. Never list one that holds a secret."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the node, such as `{"dujiang.io/rack" = "r7"}`; `dujiang nodes label` lays others over them."""
    container_runtime: Literal["auto", "podman", "docker", "containerd", "none"] = "auto"
    """What runs jobs with an image; `auto` takes the first of these that answers, `none` refuses such jobs."""
    container_options: tuple[str, ...] = ()
    """Global options of its command, such as `--runtime=runc` of podman or `--namespace=k8s.io` of containerd's ctr."""
    container_registry: str = ""
    """With containerd, what goes in front of references that name no registry, such as `registry.example.com/library`;
    podman and Docker have settings of their own."""
    container_mounts: tuple[str, ...] = ()
    """Further folders of this machine that images show under the same paths, such as where data sets lie."""
    mps_pipe_dir: Path | None = None
    """Where an NVIDIA MPS daemon listens; None takes CUDA_MPS_PIPE_DIRECTORY, else /tmp/nvidia-mps."""
