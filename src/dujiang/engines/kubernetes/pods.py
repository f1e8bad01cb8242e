"""Turns a launch into the objects that Kubernetes runs it by, and says what is refused: pure.

One Pod for each rank. That of the first is the attempt's record, and all else belongs to it. Each goes to the node that
the platform chose: by a required affinity, so that the cluster's scheduler keeps its word on taints, volumes and the
Pods of others; by `nodeName` where the site has said that it need not be asked (`placement = "bound"`).
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dujiang.engines.contract import EngineRefused, Launch, NodeRefused, RankPlacement
from dujiang.engines.kubernetes import environment, kueue, recording, records, runner, serving
from dujiang.engines.kubernetes.namespaces import ACCOUNT
from dujiang.engines.kubernetes.nodes import KubeNode
from dujiang.engines.kubernetes.records import FILE, GATE, KEEP, KEY, KIND, RANK, TOMBSTONE, Record, labels_of, owner
from dujiang.engines.kubernetes.seeing import CONTAINER
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.kubernetes.sharing import DeviceRequest

_GANG = "dujiang.io/record"
_MOST_PORTS = 64
_MOST_VARIABLES = 100_000
"""Bytes of variables in an annotation; those of a Pod may have 256 KiB."""
_MARGIN_S = 10
"""On top of the grace, before the kubelet kills what the runner did not."""
_KUBERNETES_OWN = "node.kubernetes.io/"
_TERM = re.compile(r"(!?)\s*([^\s=!,()]+)\s*(?:(==|=|!=|\bnotin\b|\bin\b)\s*(\([^)]*\)|[^\s,]*))?")


@dataclass(frozen=True)
class Plan:
    """What all Pods of an attempt have in common."""

    launch: Launch
    mark: str
    settings: KubernetesSettings
    nodes: Mapping[str, KubeNode]
    """The nodes of its ranks, by name."""
    namespace: str
    devices: Sequence[DeviceRequest]
    """What each rank asks for to get its devices."""
    version: str = "v1"
    """In which claims of devices are written."""
    flavors: Mapping[str, kueue.Flavor] = field(default_factory=dict)
    """Those of Kueue, by name."""

    @property
    def name(self) -> str:
        """Return the name of the attempt, with which those of all that belongs to it begin."""
        return records.name_of(self.launch.key)

    def pod(self, rank: int) -> str:
        """Return the name of a rank's Pod."""
        return f"{self.name}-{rank}"

    @property
    def image(self) -> str:
        """Return the image that it runs in."""
        return self.launch.image or self.settings.image

    @property
    def is_gang(self) -> bool:
        """Say whether it has several ranks."""
        return len(self.launch.ranks) > 1

    def facts(self) -> dict[str, Any]:
        """Return what the record holds of it, for observing."""
        workdir, output_dir = environment.folders_of(self.launch, self.settings)
        waits = bool(self.launch.setup.strip()) and self.is_gang
        return {
            "ports": environment.ports_of(self.launch)[1:], "workdir": workdir, "output_dir": output_dir,
            "waits_for_go": waits and not environment.go_file(self.launch, self.settings),
            "has_secrets": bool(self.launch.secrets),
            "has_service": self.has_service, "lineage": recording.unknown(self.launch),
            **({serving.SERVES: True} if self.is_served else {}),
        }  # fmt: skip

    @property
    def has_service(self) -> bool:
        """Say whether its ranks find one another by the names of a Service."""
        return self.is_gang and self.settings.network == "pod"

    @property
    def is_served(self) -> bool:
        """Say whether its job has a Service, by which programs in the cluster reach it."""
        return self.launch.is_service and self.launch.ports > 0

    def answers(self, rank: int) -> bool:
        """Say whether a rank is reached by the job's Service; of those on the nodes' network the first alone."""
        return self.is_served and (rank == 0 or self.settings.network == "pod")

    @cached_property
    def files(self) -> Mapping[str, str]:
        """Return what lies beside the runner."""
        workdir, output_dir = environment.folders_of(self.launch, self.settings)
        go = environment.go_file(self.launch, self.settings)
        return runner.files_of(self.launch, workdir=workdir, output_dir=output_dir, go=go)

    @cached_property
    def has_light_files(self) -> bool:
        """Say whether they lie in the Pods' annotations.

        Raises:
            EngineRefused: they are too large for Kubernetes.
        """
        return records.fit_in_pods(self.files, len(self.launch.ranks))

    @cached_property
    def roles(self) -> Sequence[str]:
        """Return what each rank counts as for Kueue; empty: Kueue tells.

        Raises:
            EngineRefused: they are of too many kinds.
        """
        nodes = [self.nodes[rank.node] for rank in self.launch.ranks]
        like = [(kueue.flavors_of(node.labels, self.flavors), _tolerations(node, self.settings)) for node in nodes]
        return kueue.roles(self.launch.ranks, self.devices, like)

    @cached_property
    def is_one_pod(self) -> bool:
        """Say whether one Pod is all that is made of it: then it may begin at once."""
        has_claims = any(devices.claim is not None for devices in self.devices)
        return not (self.is_gang or self.launch.secrets or has_claims or self.is_served) and self.has_light_files

    @property
    def is_bound(self) -> bool:
        """Say whether it has its node from the start, and no scheduler sees it before."""
        has_scheduler = any(devices.scheduler for devices in self.devices)
        return self.settings.placement == "bound" and self.is_one_pod and not has_scheduler


def refuse_impossible(launch: Launch, nodes: Mapping[str, KubeNode], settings: KubernetesSettings) -> None:
    """Raise where this cluster could never run the launch.

    Raises:
        EngineRefused: with what to change.
    """
    if not launch.ranks or [rank.rank for rank in launch.ranks] != list(range(len(launch.ranks))):
        raise EngineRefused("The ranks must be numbered from 0 without a gap.")
    for rank in launch.ranks:
        if rank.node not in nodes:
            raise NodeRefused(f"This Kubernetes cluster shows no node {rank.node!r} to us.")
    if not 0 <= launch.ports <= _MOST_PORTS:
        raise EngineRefused(f"A job gets at most {_MOST_PORTS} ports.")
    if not (launch.image or settings.image):
        raise EngineRefused("No container image: name one in the job (`image`), or set `image` of this cluster.")
    if launch.shares_output and len(launch.ranks) > 1 and not settings.has_shared_folder:
        raise EngineRefused(
            "MPI over several nodes needs a folder that all Pods see, to start its processes without ssh, and this"
            " cluster has none: set `work_dir` and `work_volume` of it (an NFS export, a claim that many nodes may"
            " write), choose another cluster (`placement`), another launcher, or one node."
        )
    if launch.workdir is not None and not launch.workdir.startswith("/"):
        raise EngineRefused(f"The working directory {launch.workdir!r} must be absolute.")
    texts = {"run": launch.run, "setup": launch.setup, "workdir": launch.workdir or ""}
    texts |= {f"variable {name}": value for name, value in {**launch.env, **launch.secrets}.items()}
    for what, text in texts.items():
        if "\0" in text or _is_broken(text):
            raise EngineRefused(f"The {what} holds characters that Kubernetes cannot carry: NUL, or bytes not UTF-8.")


def beside(plan: Plan, record: Record) -> list[tuple[str, dict[str, Any]]]:
    """Return what an attempt needs beside its Pods: the collection of each object, and the object."""
    core = f"/api/v1/namespaces/{plan.namespace}"
    found: list[tuple[str, dict[str, Any]]] = []
    if plan.launch.secrets:
        found.append((f"{core}/secrets", secret(plan, record)))
    if plan.has_service:
        found.append((f"{core}/services", service(plan, record)))
    if plan.is_served:
        found.append((f"{core}/services", serving.service(record, plan.mark)))
    if not plan.has_light_files:
        found.append((f"{core}/configmaps", config_map(plan, record)))
    for rank, devices in zip(plan.launch.ranks, plan.devices, strict=True):
        if devices.claim is not None:
            path = f"/apis/resource.k8s.io/{plan.version}/namespaces/{plan.namespace}/resourceclaims"
            found.append((path, claim(plan, record, rank.rank, devices.claim)))
    return found


def config_map(plan: Plan, record: Record) -> dict[str, Any]:
    """Return the ConfigMap with files that are too large for annotations."""
    meta = _metadata(plan, record, f"{plan.name}-files")
    meta["labels"][KIND] = "files"
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "immutable": True, "data": dict(plan.files)}


def secret(plan: Plan, record: Record) -> dict[str, Any]:
    """Return the Secret with the user's secrets, under keys of ours: theirs need not be names of Kubernetes."""
    values = [base64.b64encode(value.encode()).decode() for value in plan.launch.secrets.values()]
    return {
        "apiVersion": "v1", "kind": "Secret", "metadata": _metadata(plan, record, plan.name), "immutable": True,
        "data": {f"s{nth}": value for nth, value in enumerate(values)},
    }  # fmt: skip


def service(plan: Plan, record: Record) -> dict[str, Any]:
    """Return the headless Service by which the ranks of a gang find one another before they are ready."""
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": _metadata(plan, record, plan.name),
        "spec": {
            "clusterIP": "None", "publishNotReadyAddresses": True, "selector": {_GANG: plan.name},
        },
    }  # fmt: skip


def claim(plan: Plan, record: Record, rank: int, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ResourceClaim for the devices of a rank."""
    return {
        "apiVersion": f"resource.k8s.io/{plan.version}", "kind": "ResourceClaim",
        "metadata": _metadata(plan, record, plan.pod(rank)), "spec": spec,
    }  # fmt: skip


def first(plan: Plan, at_us: int) -> dict[str, Any]:
    """Return the Pod of the first rank, which is the record of its attempt.

    Args:
        plan: of the attempt.
        at_us: now, in microseconds since 1970.
    """
    notes = records.notes_of(plan.launch, at_us=at_us, facts=plan.facts(), is_made=plan.is_one_pod)
    return _pod(plan, None, 0, notes)


def pod(plan: Plan, record: Record, rank: int) -> dict[str, Any]:
    """Return the Pod of another rank."""
    return _pod(plan, record, rank, {})


def _pod(plan: Plan, record: Record | None, nth: int, notes: Mapping[str, str]) -> dict[str, Any]:
    launch, settings, rank, devices = plan.launch, plan.settings, plan.launch.ranks[nth], plan.devices[nth]
    meta = _metadata(plan, record, plan.pod(rank.rank))
    meta["labels"] |= {RANK: str(rank.rank), **({_GANG: plan.name} if plan.is_gang else {})}
    if plan.answers(rank.rank):
        meta["labels"] |= serving.label(launch.key)
    told, variables = _variables(plan, rank, devices)
    light = {**(plan.files if plan.has_light_files else {}), **({runner.ENV: told} if told else {})}
    meta["annotations"] |= {**devices.annotations, **notes, **{f"{FILE}{name}": text for name, text in light.items()}}
    meta["finalizers"] = [KEEP]
    if settings.queue:
        meta["labels"] |= kueue.labels(settings.queue, plan.name if plan.is_gang else "")
        if plan.is_gang:
            meta["annotations"] |= kueue.notes(len(launch.ranks), plan.roles[nth])
    volumes, mounts = _volumes(plan, light)
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(launch.grace_s) + _MARGIN_S,
        "automountServiceAccountToken": False,
        "serviceAccountName": settings.service_account or ACCOUNT,
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        **({"nodeName": rank.node} if plan.is_bound else {"affinity": {"nodeAffinity": _affinity(plan, rank.node)}}),
        "tolerations": _tolerations(plan.nodes[rank.node], settings),
        "volumes": volumes,
        "containers": [_container(plan, rank, devices, mounts, variables)],
    }
    if launch.time_limit_s is not None:
        # The runner keeps the limit; this is for one that is gone, and counts from before the image is there.
        whole = launch.time_limit_s + launch.grace_s + settings.gang_start_s
        spec["activeDeadlineSeconds"] = min(2**31 - 1, math.ceil(whole))
    if not plan.is_one_pod:
        spec["schedulingGates"] = [{"name": GATE}]
    if plan.has_service:
        spec |= {"hostname": plan.pod(rank.rank), "subdomain": plan.name}
    if settings.network == "host":
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if devices.claim is not None:
        spec["resourceClaims"] = [{"name": "devices", "resourceClaimName": plan.pod(rank.rank)}]
    named = {
        "schedulerName": devices.scheduler or settings.scheduler, "priorityClassName": settings.priority_class,
        "runtimeClassName": settings.runtime_class,
    }  # fmt: skip
    spec |= {name: value for name, value in named.items() if value}
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _container(
    plan: Plan, rank: RankPlacement, devices: DeviceRequest, mounts: list[dict[str, Any]], env: list[dict[str, Any]]
) -> dict[str, Any]:
    given = {
        **({"cpu": f"{rank.cpu_milli}m"} if rank.cpu_milli else {}),
        **({"memory": str(rank.memory_bytes)} if rank.memory_bytes else {}),
        **({"ephemeral-storage": str(rank.disk_bytes)} if rank.disk_bytes else {}),
        **devices.limits,
    }
    resources: dict[str, Any] = {"requests": given, "limits": given}
    if devices.claim is not None:
        resources["claims"] = [{"name": "devices"}]
    made: dict[str, Any] = {
        "name": CONTAINER,
        "image": plan.image,
        "imagePullPolicy": "IfNotPresent",
        "command": runner.begin(rank.rank),
        "env": env,
        "resources": resources,
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": mounts,
        "terminationMessagePath": runner.LAST_WORD,
        "lifecycle": {"preStop": {"exec": {"command": runner.ask("term")}}},
    }
    if rank.rank == 0 and plan.settings.network == "host":  # which the scheduler keeps apart; else they mean nothing
        made["ports"] = [{"containerPort": port, "protocol": "TCP"} for port in environment.ports_of(plan.launch)]
    if rank.rank == 0 and plan.facts()["waits_for_go"]:
        probe = {"command": [runner.SHELL, "-c", f"[ -e {runner.STATE}/went ]"]}
        made["startupProbe"] = {"exec": probe, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 10**8}
    if plan.answers(rank.rank):
        made |= serving.container(environment.ports_of(plan.launch)[1:], made.get("ports", ()))
    return made


def _variables(plan: Plan, rank: RankPlacement, devices: DeviceRequest) -> tuple[str, list[dict[str, Any]]]:
    """Return the variables of a rank: the lines by which its runner sets them, and those that its container has."""
    workdir, output_dir = environment.folders_of(plan.launch, plan.settings)
    below, above = environment.rank_environment(
        plan.launch, rank, hosts=_hosts(plan), ports=environment.ports_of(plan.launch), workdir=workdir,
        output_dir=output_dir, mark=plan.mark,
    )  # fmt: skip
    hidden = [name for name in plan.launch.secrets if name not in above and name not in devices.env]
    plain = {
        name: value for name, value in {**below, **above}.items() if name not in hidden and name not in devices.env
    }
    lines, rest = environment.exports(plain)
    if len(lines.encode()) > _MOST_VARIABLES:
        lines, rest = "", plain
    found = {name: _plain(value) for name, value in {**rest, **devices.env}.items()}  # devices: the runtime reads them
    for nth, name in enumerate(plan.launch.secrets):
        if name in hidden:
            found[name] = {"valueFrom": {"secretKeyRef": {"name": plan.name, "key": f"s{nth}"}}}
    return lines, [{"name": name, **value} for name, value in found.items()]


def _plain(value: str) -> dict[str, Any]:
    return {"value": value.replace("$", "$$")}  # else Kubernetes puts other variables in for $(NAME)


def _hosts(plan: Plan) -> list[str]:
    """Return where each rank is reached by the others."""
    if not plan.is_gang:
        return ["127.0.0.1"]
    if plan.settings.network == "host":
        nodes = [plan.nodes[rank.node] for rank in plan.launch.ranks]
        return [node.address or node.name for node in nodes]
    return [f"{plan.pod(rank.rank)}.{plan.name}" for rank in plan.launch.ranks]


def _volumes(plan: Plan, light: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the volumes of a Pod, and where its container has them."""
    settings = plan.settings
    sources = [
        {"configMap": {"name": runner.name()}},
        # Where it is there, the attempt was forgotten before this Pod came to be, and its runner runs nothing.
        {"configMap": {"name": plan.name, "optional": True, "items": [{"key": TOMBSTONE, "path": TOMBSTONE}]}},
        *_files(plan, light),
    ]
    own = runner.STATE if settings.work_dir else environment.OWN  # which may be the shared folder itself
    found: list[tuple[str, dict[str, Any], str, bool]] = [
        ("dujiang", {"emptyDir": {}}, own, False),
        ("dujiang-bin", {"projected": {"sources": sources, "defaultMode": 0o555}}, runner.BIN, True),
        ("dujiang-shm", {"emptyDir": {"medium": "Memory"}}, "/dev/shm", False),
    ]
    if settings.work_dir:
        found.append(("dujiang-work", dict(settings.work_volume), settings.work_dir, False))
    for nth, (path, what) in enumerate(settings.volumes.items()):
        source = {name: value for name, value in what.items() if name != "readOnly"}
        found.append((f"v{nth}", source, path, bool(what.get("readOnly"))))
    volumes = [{"name": name, **what} for name, what, _, _ in found]
    mounts = [{"name": name, "mountPath": path, **({"readOnly": True} if ro else {})} for name, _, path, ro in found]
    return volumes, mounts


def _files(plan: Plan, light: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return where the runner has the files beside it from: those that are light, from the Pod's own annotations."""
    notes = [(name, f"metadata.annotations['{FILE}{name}']") for name in light]
    items = [{"path": name, "fieldRef": {"fieldPath": path}} for name, path in notes]
    heavy = [] if plan.has_light_files else [{"configMap": {"name": f"{plan.name}-files"}}]
    return [*heavy, *([{"downwardAPI": {"items": items}}] if items else ())]


def _affinity(plan: Plan, node: str) -> dict[str, Any]:
    settings = plan.settings
    there: dict[str, Any] = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    if settings.placement != "delegated":
        if flavored := _flavored(plan, node):
            there["matchExpressions"] = flavored
        return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [there]}}
    wanted: dict[str, Any] = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": there}]}
    if expressions := _expressions(settings.node_selector):
        terms = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
        wanted["requiredDuringSchedulingIgnoredDuringExecution"] = terms
    return wanted


def _flavored(plan: Plan, node: str) -> list[dict[str, Any]]:
    """Return by which labels of its node Kueue finds the quota for a Pod that is pinned there."""
    if not plan.settings.queue or plan.settings.placement == "delegated":
        return []
    return kueue.flavored(plan.nodes[node].labels, plan.flavors)


def _expressions(selector: str) -> list[dict[str, Any]]:
    """Return a label selector as the expressions that an affinity has: `a=b,c!=d,e,!f,g in (h,i)`."""
    found: list[dict[str, Any]] = []
    for no, key, how, text in _TERM.findall(selector):
        if not how:
            found.append({"key": key, "operator": "DoesNotExist" if no else "Exists"})
            continue
        values = [value.strip() for value in text.strip("()").split(",")]
        found.append({"key": key, "operator": "In" if how in ("=", "==", "in") else "NotIn", "values": values})
    return found


def _tolerations(node: KubeNode, settings: KubernetesSettings) -> list[dict[str, Any]]:
    """Return what makes a Pod tolerate its node: the platform sends none to a node whose taints it may not tolerate."""
    wanted: list[tuple[str, str, str]] = [
        (key, value, effect) for key, value, effect in node.taints
        if not key.startswith(_KUBERNETES_OWN) and effect != "PreferNoSchedule"
    ]  # fmt: skip
    for mark in settings.tolerations:
        key, has_value, value = mark.partition("=")
        wanted.append((key, value if has_value else "*", ""))
    return [
        {
            "key": key,
            **({"operator": "Exists"} if value == "*" else {"operator": "Equal", "value": value}),
            **({"effect": effect} if effect else {}),
        }
        for key, value, effect in dict.fromkeys(wanted)
    ]


def _metadata(plan: Plan, record: Record | None, name: str) -> dict[str, Any]:
    return {
        "name": name, "namespace": plan.namespace, "labels": labels_of(plan.mark, plan.launch.key),
        "annotations": {KEY: str(plan.launch.key)}, **({"ownerReferences": owner(record)} if record else {}),
    }  # fmt: skip


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
