"""Why fields of a Pod and of what makes Pods have no place in a job here, and what to do instead: tables."""

from __future__ import annotations

from typing import Any, Final

from dujiang.jobs.converting.parts import Reasons

_NODE_RIGHTS = ("A job is ordinary work of its project; it gets no rights over the node.", "")
_ACCOUNT = ("A job here does not speak to a cluster's API.", "Give it a token as a secret if it has to.")
_NETWORK = ("Network and names of hosts are the platform's.", "")
_PROBE = ("The platform does not probe jobs.", "Have the program end itself when it is not well.")
_FILLED = ("The cluster's scheduler fills this in.", "")

POD: Final[Reasons] = {
    "ephemeralContainers": ("They are for looking into a running Pod.", ""),
    "dnsPolicy": _NETWORK,
    "dnsConfig": _NETWORK,
    "hostAliases": _NETWORK,
    "hostname": _NETWORK,
    "hostnameOverride": _NETWORK,
    "setHostnameAsFQDN": _NETWORK,
    "serviceAccountName": _ACCOUNT,
    "serviceAccount": _ACCOUNT,
    "automountServiceAccountToken": _ACCOUNT,
    "nodeName": ("A job names labels of nodes, not nodes.", "Label the node and write placement: {selector: ...}."),
    "hostNetwork": _NODE_RIGHTS,
    "hostPID": _NODE_RIGHTS,
    "hostIPC": _NODE_RIGHTS,
    "hostUsers": _NODE_RIGHTS,
    "shareProcessNamespace": ("A job has one container on each node.", ""),
    "securityContext": ("User, groups and capabilities are set by the site, not by the job.", ""),
    "imagePullSecrets": ("The site's own credentials pull images.", "Ask an operator to add them for the cluster."),
    "schedulerName": ("Dujiang schedules.", ""),
    "priority": ("What goes first is said by class and weight.", "Write class: core, normal or low."),
    "preemptionPolicy": ("Who may stop others follows from class and queue.", ""),
    "readinessGates": _PROBE,
    "runtimeClassName": ("How containers are run is set for each cluster.", ""),
    "enableServiceLinks": ("There are no Services beside a job.", ""),
    "overhead": _FILLED,
    "os": ("Jobs run on Linux.", ""),
    "schedulingGates": ("A job is queued when it is submitted.", "Write after, or submit it later."),
    "resourceClaims": ("Devices are asked for by number, not by claims.", "Write resources: {gpu: ...}."),
    "resources": ("Amounts are read from the container.", "Write them under resources."),
    "workloadRef": _FILLED,
    "schedulingGroup": _FILLED,
}
POD_PLAIN: Final[dict[str, Any]] = {
    "dnsPolicy": ("ClusterFirst", "Default"),
    "schedulerName": "default-scheduler",
    "serviceAccountName": "default",
    "serviceAccount": "default",
    "enableServiceLinks": (True, False),
    "automountServiceAccountToken": False,
    "securityContext": ({},),
    "hostNetwork": False,
    "hostPID": False,
    "hostIPC": False,
    "shareProcessNamespace": False,
    "preemptionPolicy": "PreemptLowerPriority",
    "priority": 0,
    "os": ({"name": "linux"},),
    "imagePullSecrets": ([],),
}
CONTAINER: Final[Reasons] = {
    "resizePolicy": ("What a job has stays as it is while it runs.", ""),
    "restartPolicy": ("The job as a whole is started again.", "Write retry: {limit: ..., on: [...]}."),
    "restartPolicyRules": ("The job as a whole is started again.", "Write retry: {limit: ..., on: [...]}."),
    "volumeDevices": ("No block devices are given to jobs.", ""),
    "livenessProbe": _PROBE,
    "readinessProbe": _PROBE,
    "startupProbe": _PROBE,
    "lifecycle": ("There are no hooks around a job.", "Write setup for what goes before, a trap in run for the end."),
    "terminationMessagePath": ("What a job wrote is in its logs.", ""),
    "terminationMessagePolicy": ("What a job wrote is in its logs.", ""),
    "imagePullPolicy": ("When images are pulled is set for each cluster.", "Name the image by its digest."),
    "securityContext": ("User, groups and capabilities are set by the site, not by the job.", ""),
    "stdin": ("A job has no standard input.", ""),
    "stdinOnce": ("A job has no standard input.", ""),
    "tty": ("A job has no terminal.", ""),
}
CONTAINER_PLAIN: Final[dict[str, Any]] = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "imagePullPolicy": "IfNotPresent",
    "securityContext": ({},),
    "stdin": False,
    "tty": False,
    "stdinOnce": False,
}
METADATA: Final[Reasons] = {
    "finalizers": ("Nothing here waits for another's leave to be removed.", ""),
    "ownerReferences": ("The job stands by itself.", ""),
}
WRITTEN_BY_CLUSTER: Final = frozenset(
    (
        "selfLink", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
        "deletionGracePeriodSeconds", "clusterName", "managedFields",
    )
)  # fmt: skip
"""Fields of metadata that the cluster writes; what a person wrote does not need them."""
JOB: Final[Reasons] = {
    "podFailurePolicy": ("Retries go by cause, not by exit code.", "Write retry: {on: [infrastructure, user ...]}."),
    "successPolicy": ("A job has completed when all of it has.", ""),
    "backoffLimitPerIndex": ("Each task of an array has the job's own retries.", "Write retry: {limit: ...}."),
    "maxFailedIndexes": ("Tasks of an array do not stop one another.", ""),
    "selector": ("The platform keeps its own record of what belongs to a job.", ""),
    "manualSelector": ("The platform keeps its own record of what belongs to a job.", ""),
    "ttlSecondsAfterFinished": ("Jobs that have ended stay on record.", ""),
    "podReplacementPolicy": ("An attempt follows when the one before has ended.", ""),
    "managedBy": ("The platform runs it.", ""),
}
JOB_PLAIN: Final[dict[str, Any]] = {
    "manualSelector": False,
    "podReplacementPolicy": ("TerminatingOrFailed", "Failed"),
    "suspend": False,
}
