"""The options of sbatch: how they are written, and why some have no place in a job here. Tables; as of Slurm 25.05."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from dujiang.jobs.converting.parts import Reasons


class Takes(Enum):
    """Whether an option has a value."""

    NOTHING = 0
    VALUE = 1
    PERHAPS = 2


def _table() -> dict[str, tuple[str, Takes]]:
    valued = (
        "a:array A:account :acctg-freq :batch b:begin :bb :bbf :chdir=D :cluster-constraint M:clusters :comment "
        "C:constraint :context :container :container-id :core-spec=S :cores-per-socket :cpu-freq :cpus-per-gpu "
        "c:cpus-per-task :deadline :delay-boot d:dependency m:distribution e:error x:exclude :export :export-file "
        ":extra B:extra-node-info :gid :gpu-bind :gpu-freq G:gpus :gpus-per-node :gpus-per-socket :gpus-per-task :gres "
        ":gres-flags :hint i:input J:job-name :kill-on-invalid-dep L:licenses :mail-type :mail-user :mcs-label :mem "
        ":mem-bind :mem-per-cpu :mem-per-gpu :mincpus :network F:nodefile w:nodelist N:nodes n:ntasks "
        ":ntasks-per-core :ntasks-per-gpu :ntasks-per-node :ntasks-per-socket :ntasks-per-tres :open-mode o:output "
        "p:partition :power :prefer :priority :profile q:qos :reservation :resv-ports :segment :signal "
        ":sockets-per-node :switches :thread-spec :threads-per-core t:time :time-min :tmp :tres-bind :tres-per-task "
        ":uid :wait-all-nodes :wckey :wrap :stepmgr-opts "
        # Of Pyxis, a plugin that many sites have.
        ":container-image :container-mounts :container-workdir :container-name :container-save"
    )
    bare = (
        ":contiguous H:hold :ignore-pbs :no-requeue O:overcommit s:oversubscribe :parsable Q:quiet :reboot :requeue "
        ":spread-job :stepmgr :test-only :use-min-nodes v:verbose W:wait :consolidate-segments :spread-segments "
        "h:help :usage V:version :container-mount-home :no-container-mount-home :no-container-entrypoint"
    )
    perhaps = ":exclusive :get-user-env k:no-kill :nice :propagate"
    found: dict[str, tuple[str, Takes]] = {}
    for words, takes in ((valued, Takes.VALUE), (bare, Takes.NOTHING), (perhaps, Takes.PERHAPS)):
        for word in words.split():
            short, _, name = word.partition(":")
            name, _, other = name.partition("=")
            found[name] = (short or other, takes)
    return found


OPTIONS: Final[Mapping[str, tuple[str, Takes]]] = _table()
"""By long name: the short one, and whether there is a value."""
ALIASES: Final[Mapping[str, str]] = {"cluster": "clusters", "tasks-per-node": "ntasks-per-node"}
SHORT: Final[Mapping[str, str]] = {short: name for name, (short, _) in OPTIONS.items() if short}

_OUTPUT = ("What a job writes is kept by the platform.", "See `dujiang logs`; redirect in the script for a file.")
_MAIL = ("The platform sends no mail.", "Follow the job with `dujiang submit --wait` or the API's events.")
_BINDING = ("Where threads and processes are bound is the program's own affair.", "")
_CORES = ("Cores are asked for by number, not by how they lie.", "")
_BURST = ("There are no burst buffers.", "Write resources: {disk: ...}.")
_NO_NEED = ("It says how sbatch behaves, not what the job needs.", "")

REASONS: Final[Reasons] = {
    "output": _OUTPUT,
    "error": _OUTPUT,
    "open-mode": _OUTPUT,
    "input": ("A job has no standard input.", "Redirect in the script."),
    "mail-type": _MAIL,
    "mail-user": _MAIL,
    "time-min": ("A time limit is not made shorter to fit a gap.", "Write the shortest time_limit that will do."),
    "reservation": ("Reservations here are for projects.", "`dujiang reservations` lists them."),
    "begin": ("A job is queued when it is submitted.", "Submit it then, such as by `dujiang schedule create`."),
    "hold": ("A job is queued when it is submitted.", "Submit it when it is to run."),
    "nodelist": ("A job names labels of nodes, not nodes.", "Label them and write placement: {selector: ...}."),
    "nodefile": ("A job names labels of nodes, not nodes.", "Label them and write placement: {selector: ...}."),
    "exclude": ("A job names labels of nodes, not nodes.", "Label the others and write placement: {selector: ...}."),
    "exclusive": ("A job has what it asks for, and others the rest of a node.", "Ask for all of one under resources."),
    "oversubscribe": ("A job has what it asks for, by itself.", ""),
    "overcommit": ("A job has what it asks for, by itself.", ""),
    "licenses": ("Licenses are not counted.", ""),
    "export-file": ("A file with variables is not read.", "Write them under env."),
    "get-user-env": ("A job has no login environment.", "Write env, or source what it needs in the script."),
    "propagate": ("Limits of the submitter's shell do not go with the job.", ""),
    "nice": ("What goes first is said by class and weight.", "Write class and weight."),
    "priority": ("What goes first is said by class and weight.", "Write class and weight."),
    "no-kill": ("When a node is lost the attempt ends, and another follows.", "Write nodes: {min: ..., max: ...}."),
    "wait": ("It says how sbatch behaves.", "Write `dujiang submit --wait`."),
    "test-only": ("It says how sbatch behaves.", "Write `dujiang submit --dry-run`."),
    "kill-on-invalid-dep": ("A job whose dependency can never be met is always cancelled.", ""),
    "contiguous": ("Nodes are near to one another by place, not by number.", "Write placement: {within: switch}."),
    "spread-job": ("A job's nodes go where there is room.", "Write placement: {spread: ...}."),
    "use-min-nodes": ("An elastic job takes as many nodes as there is room for.", ""),
    "prefer": ("A wish that may go unmet is not kept; only demands are.", ""),
    "batch": ("All nodes of a job are alike.", ""),
    "cluster-constraint": ("A job names a cluster.", "Write placement: {cluster: ...}."),
    "wckey": ("Work is counted by project.", "Write labels."),
    "context": ("A job gets no rights over the node.", ""),
    "mcs-label": ("Who sees a job follows from its project.", ""),
    "extra": ("", "Write labels."),
    "uid": ("A job runs in the name of who submits it.", ""),
    "gid": ("A job runs in the name of who submits it.", ""),
    "reboot": ("A job gets no rights over the node.", ""),
    "delay-boot": ("A job gets no rights over the node.", ""),
    "power": ("A job gets no rights over the node.", ""),
    "cpu-freq": ("A job gets no rights over the node.", ""),
    "gpu-freq": ("A job gets no rights over the node.", ""),
    "network": ("Networks are not handed out.", ""),
    "resv-ports": ("", "Write ports."),
    "profile": ("Use is measured for every job.", "See `dujiang metrics`."),
    "acctg-freq": ("Use is measured for every job.", ""),
    "bb": _BURST,
    "bbf": _BURST,
    "container": ("An OCI bundle is no image.", "Write image."),
    "container-id": ("An OCI bundle is no image.", "Write image."),
    "container-mounts": ("Nothing is mounted into jobs.", "Use the path under which the nodes see this storage."),
    "container-mount-home": ("Nothing is mounted into jobs.", ""),
    "no-container-mount-home": ("Nothing is mounted into jobs.", ""),
    "no-container-entrypoint": ("run is what runs.", ""),
    "container-name": ("A container is a job's own and ends with it.", ""),
    "container-save": ("A container is a job's own and ends with it.", ""),
    "gres-flags": _BINDING,
    "gpu-bind": _BINDING,
    "mem-bind": _BINDING,
    "tres-bind": _BINDING,
    "distribution": _BINDING,
    "hint": _BINDING,
    "core-spec": _CORES,
    "thread-spec": _CORES,
    "cores-per-socket": _CORES,
    "sockets-per-node": _CORES,
    "threads-per-core": _CORES,
    "extra-node-info": _CORES,
    "ntasks-per-core": _CORES,
    "ntasks-per-socket": _CORES,
    "gpus-per-socket": _CORES,
    "segment": ("Nodes are near to one another by place.", "Write placement: {within: ...}."),
    "consolidate-segments": ("Nodes are near to one another by place.", ""),
    "spread-segments": ("Nodes are near to one another by place.", ""),
    "stepmgr": _NO_NEED,
    "stepmgr-opts": _NO_NEED,
    "wait-all-nodes": ("All nodes of a job start together.", ""),
    "wrap": ("In a script there is the script itself.", ""),
}  # fmt: skip
QUIET: Final = frozenset(("parsable", "quiet", "verbose", "ignore-pbs", "help", "usage", "version"))
"""Options that say how sbatch prints, and nothing of the job."""
