"""What can be set about a Kubernetes cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dujiang.engines.kubernetes.checking import check_paths, check_selector, check_volume

_OF_ONE_POD: Final = frozenset({"emptyDir", "ephemeral"})
"""Kinds of volumes that each Pod gets one of."""


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """A Kubernetes cluster, `[clusters.NAME.kubernetes]`: how it is reached and what its Pods are like.

    Times are plain numbers of seconds here, sizes of bytes.
    """

    kubeconfig: str = ""
    """Path of the file; empty takes the Pod's own service account where the platform runs in the cluster, else
    KUBECONFIG, else ~/.kube/config."""
    context: str = ""
    """Of the kubeconfig; empty takes its current one."""
    namespace_prefix: str = "dujiang-"
    """Each project's work goes into the namespace of this prefix and the project's name."""
    image: str = ""
    """Container image of jobs that name none; it needs /bin/sh. Empty refuses such jobs here."""
    work_dir: str = ""
    """Absolute folder where `work_volume` is mounted in every Pod: jobs have their folders there. Output folders are
    found by the platform only where it sees the same folder under the same path. Empty gives each attempt a folder that
    goes with it."""
    work_volume: Mapping[str, Any] = field(default_factory=dict)
    """What `work_dir` is, as a Pod writes a volume: `{persistentVolumeClaim = {claimName = "dujiang"}}`,
    `{nfs = {server = ..., path = ...}}`, `{hostPath = {path = ...}}`."""
    volumes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further volumes by the absolute path at which they are mounted in every Pod, such as data sets; `readOnly = true`
    beside a source mounts it so."""
    placement: Literal["pinned", "delegated", "bound"] = "pinned"
    """Whether Pods go exactly to the nodes that the platform chose, or its choice is only preferred and the cluster's
    scheduler has the last word. `bound` names the node of a job of one Pod as it is made, so that the scheduler is not
    asked at all: for nodes that only the platform fills, as the scheduler may give others the same place."""
    queue: str = ""
    """Kueue's LocalQueue for every Pod; empty uses no Kueue."""
    scheduler: str = ""
    """`schedulerName` of Pods; empty takes the cluster's default."""
    resources: Mapping[str, str] = field(default_factory=dict)
    """Extended resource by vendor, where it is not the usual one, such as `{acme = "acme.ai/npu"}`."""
    device_memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """Memory by device model, where no label of the nodes says it, such as `{"H100" = 85899345920}`."""
    fractions: Literal["auto", "hami", "kai", "whole", "refuse"] = "auto"
    """How a share of a device is given: by HAMi's or KAI's fractions (auto: whichever the nodes show, else refused), as
    a whole device of which only the share is counted here, or not at all."""
    network: Literal["pod", "host"] = "pod"
    """Whether ranks of a gang find one another by the names of a headless Service, or use the node's own network."""
    node_selector: str = ""
    """Label selector: only these nodes are shown; empty shows all."""
    service_account: str = ""
    """Of Pods; empty gives each project's namespace one of its own without rights."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the projects' namespaces."""
    priority_class: str = ""
    """Of Pods."""
    runtime_class: str = ""
    """Of Pods, such as `nvidia`."""
    tolerations: tuple[str, ...] = ()
    """`key` or `key=value` of taints that every Pod tolerates."""
    count_others: bool = True
    """Whether what Pods of others hold is taken off what nodes offer."""
    quota: Mapping[str, str] = field(default_factory=dict)
    """Hard limits of the ResourceQuota of each project's namespace, such as `{pods = "1000"}`; empty makes none."""
    isolate: bool = True
    """Whether a NetworkPolicy lets a namespace's Pods be reached from their own namespace alone."""
    request_timeout_s: float = 30.0
    """How long a request may take before the cluster counts as unreachable."""
    stale_after_s: float = 60.0
    """For how long an interrupted watch may go on telling what it last saw before the cluster counts as unreachable."""
    gang_start_s: float = 900.0
    """How long Pods may wait for a node or an image before the attempt is given up as one that could not start."""
    watch_s: float = 0.5
    """How often output that is followed is asked for again."""
    output_days: float = 30.0
    """For how many days output of an ended attempt is kept here after it was read last; 0 keeps it for ever."""

    @property
    def has_shared_folder(self) -> bool:
        """Say whether all Pods of an attempt see one folder; some kinds of volumes are each Pod's own."""
        return bool(self.work_dir) and not _OF_ONE_POD & self.work_volume.keys()

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: with what to write.
        """
        if bool(self.work_dir) != bool(self.work_volume):
            raise ValueError("work_dir and work_volume belong together: where the folder is mounted, and what it is")
        if self.work_dir and not self.work_dir.startswith("/"):
            raise ValueError(f"work_dir must be absolute, not {self.work_dir!r}")
        check_paths(self.volumes)
        for where, volume in (("work_volume", self.work_volume), *self.volumes.items()):
            if volume or where != "work_volume":
                check_volume(where, volume)
        check_selector(self.node_selector)
        if self.placement == "bound" and (self.queue or self.scheduler):
            raise ValueError('placement = "bound" asks no scheduler: leave out `queue` and `scheduler`')
        for name in ("request_timeout_s", "stale_after_s", "gang_start_s", "watch_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        if not self.output_days >= 0:
            raise ValueError("output_days must be 0 or more; 0 keeps output for ever")
