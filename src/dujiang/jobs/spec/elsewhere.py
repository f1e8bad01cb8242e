"""What other schedulers and launchers call a field, and what to write here instead."""

from __future__ import annotations

from collections.abc import Mapping

ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("command", "commands", "cmd", "script", "entrypoint", "exec"), "Write run."),
    **dict.fromkeys(("args", "arguments"), "Write the whole command line as run."),
    **dict.fromkeys(("gpu", "gpus", "accelerators"), "Write it under resources: resources: {gpu: ...}."),
    **dict.fromkeys(("cpu", "cpus", "cores"), "Write it under resources: resources: {cpu: ...}."),
    **dict.fromkeys(("memory", "mem", "ram"), "Write it under resources: resources: {memory: ...}."),
    **dict.fromkeys(("disk", "storage"), "Write it under resources: resources: {disk: ...}."),
    **dict.fromkeys(
        ("priority", "nice", "importance", "priority_class", "priorityclassname", "qos"),
        "What goes first is said by class (core, normal, low) and, within its band, by weight.",
    ),
    **dict.fromkeys(
        ("partition", "account", "namespace", "tenant"), "Write project; each has its queue, and queue names another."
    ),
    **dict.fromkeys(("min_nodes", "max_nodes", "nodes_min", "nodes_max", "elastic"), "Write nodes: {min: 2, max: 8}."),
    **dict.fromkeys(("cluster", "clusters"), "Write placement: {cluster: ...}."),
    **dict.fromkeys(
        ("node_selector", "nodeselector", "constraint", "constraints", "features"),
        "Write placement: {selector: {LABEL: VALUE}}.",
    ),
    **dict.fromkeys(("tolerations", "toleration", "taints"), "Write placement: {tolerations: [...]}."),
    **dict.fromkeys(("topology", "affinity", "locality", "within"), "Write placement: {within: rack}."),
    **dict.fromkeys(
        ("anti_affinity", "antiaffinity", "spread", "apart"), "Write placement: {spread: ..., apart: ...}."
    ),
    **dict.fromkeys(("isolation", "sharing"), "Write placement: {isolation: ...}."),
    **dict.fromkeys(("any_of", "alternatives"), "Write it under resources: resources: {any_of: [...]}."),
    **dict.fromkeys(("due", "finish_by", "end_by", "latest_finish", "completion_deadline"), "Write deadline."),
    **dict.fromkeys(("num_nodes", "replicas", "workers", "world_size", "parallelism", "ntasks"), "Write nodes."),
    **dict.fromkeys(("timeout", "walltime", "time", "max_duration", "activedeadlineseconds"), "Write time_limit."),
    **dict.fromkeys(
        ("retries", "restart", "restart_policy", "backoff_limit", "backofflimit", "max_restarts"),
        "Write retry: {limit: ..., on: [...]}.",
    ),
    **dict.fromkeys(("environment", "envs", "variables"), "Write env."),
    **dict.fromkeys(("working_dir", "workingdir", "cwd", "chdir", "directory"), "Write workdir."),
    **dict.fromkeys(("hyperparameters", "hparams", "hyper_parameters", "config"), "Write params."),
    **dict.fromkeys(("type",), "Write kind: task or service."),
    **dict.fromkeys(("on", "limit"), "Write it under retry: retry: {limit: ..., on: [...]}."),
    **dict.fromkeys(
        ("container", "docker", "container_image", "docker_image", "image_id"), "Write image: registry/name:tag."
    ),
    **dict.fromkeys(
        ("depends_on", "dependencies", "dependency", "needs", "afterok", "afterany", "afternotok"),
        "Write after: [{job: ..., when: ok, any or notok}].",
    ),
    **dict.fromkeys(("array_size", "tasks", "matrix", "completions"), "Write array: {size: ...}."),
    **dict.fromkeys(("schedule", "cron"), "Create it with `dujiang schedule create`."),
    **dict.fromkeys(("data", "datasets", "dataset", "file_mounts"), "Write inputs: [{name: ..., path: ...}]."),
    **dict.fromkeys(("model", "models", "artifacts"), "Write outputs: {model: {name: ..., path: ...}}."),
    **dict.fromkeys(("grace_period", "termination_grace_period", "stop_timeout"), "Write grace."),
    **dict.fromkeys(("port",), "Write ports, how many the job needs; their numbers are in PORT, PORT1 ..."),
    **dict.fromkeys(
        ("launcher", "framework", "strategy", "torchrun", "deepspeed", "mpi", "horovod", "accelerate"),
        "Write distributed: torchrun, or another launcher.",
    ),
    **dict.fromkeys(
        ("nproc_per_node", "processes", "num_processes", "processes_per_node", "ntasks_per_node", "slots_per_worker"),
        "Write distributed: {launcher: ..., processes: ...}.",
    ),
    **dict.fromkeys(("id", "state", "status"), "The platform gives this; leave it out."),
    **dict.fromkeys(("tags", "annotations", "metadata"), "Write labels."),
}
