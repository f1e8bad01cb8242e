"""`dujiang nodes` and `pool`: what there is, what is held, and what operators do with it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import (
    Column,
    ago,
    clean,
    col,
    heading,
    listing,
    milli,
    moment,
    note,
    say,
    size,
    stated,
    write_facts,
    write_json,
    write_table,
)
from dujiang.cli.session import Json, Stop, connect

nodes_app = typer.Typer(help="Nodes of the pool.", invoke_without_command=True, no_args_is_help=False)
Node = Annotated[str, typer.Argument(metavar="NODE", help="Name or id.")]
Cluster = Annotated[str | None, typer.Option("--cluster", help="Where nodes of several clusters share a name.")]
Marks = Annotated[list[str], typer.Argument(metavar="KEY[=VALUE]...", help="To set; KEY- takes it away.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept with the node and in the audit trail.")]


def _of(free: Any, total: Any, show: Any) -> str:
    return f"{show(free)} of {show(total)}" if isinstance(total, int) else "-"


def _gpus(node: Any) -> str:
    devices = node.get("devices") or []
    if not devices:
        return "none"
    free = sum(device.get("free_gpu_milli", 0) for device in devices)
    models = sorted({str(device.get("model")) for device in devices})
    return f"{milli(free)} of {len(devices)} ({', '.join(models)})"


def _name(node: Any) -> str:
    return f"{node.get('name')}{' (simulated)' if node.get('simulated') else ''}"


def _standing(node: Any) -> str:
    """Return a node's state; what is known of a cluster that does not answer is old."""
    silent = node.get("cluster_state") in ("unreachable", "removed")
    return f"{node.get('state')} (cluster {node['cluster_state']})" if silent else str(node.get("state"))


_NODES = (
    Column("NAME", _name),
    col("CLUSTER"),
    Column("STATE", _standing),
    Column("FREE GPUS", _gpus),
    Column("FREE CORES", lambda node: _of(node.get("free_cpu_milli"), node.get("cpu_milli"), milli)),
    Column("FREE MEMORY", lambda node: _of(node.get("free_memory_bytes"), node.get("memory_bytes"), size)),
    Column("FREE DISK", lambda node: _of(node.get("free_disk_bytes"), node.get("disk_bytes"), size)),
    Column("TAINTS", lambda node: ", ".join(node.get("taints") or []) or None),
    Column("REASON", lambda node: node.get("reason") or None, below=True),
)


@nodes_app.callback()
def list_nodes(
    context: typer.Context,
    cluster: Cluster = None,
    state: Annotated[list[str] | None, typer.Option("--state", "-s", help="READY, CORDONED ...")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", help="key=value; all of them.")] = None,
    json: Json = False,
) -> None:
    """List nodes, with what is free of them."""
    if context.invoked_subcommand is not None:
        return
    states = [each.upper() for each in state or []]
    with connect() as client:
        nodes = client.items("/v1/nodes", cluster=cluster, state=states, label=label or None)
        empty = "There are no such nodes. `dujiang clusters` says whether each cluster answers, and why not."
        listing(nodes, _NODES, as_json=json, empty=empty)


def _engine(cluster: Any) -> str:
    return " ".join(str(word) for word in (cluster.get("kind"), cluster.get("version")) if word)


def _limits(cluster: Any) -> str | None:
    if not cluster.get("limits_by"):  # it has never answered
        return None
    return f"{cluster.get('limits')} ({cluster.get('limits_by')}), shares of devices {cluster.get('isolation')}"


def _answers(cluster: Any) -> str | None:
    last, p95 = cluster.get("answer_s"), cluster.get("answer_p95_s")
    return None if last is None else f"{_took(last)} (95 %: {_took(p95)})"


def _took(value: Any) -> str:
    """Return the time of an answer with three figures at most: they lie between a millisecond and minutes."""
    if not isinstance(value, int | float):
        return "-"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


_CLUSTERS = (
    col("NAME"),
    Column("ENGINE", _engine),
    col("STATE"),
    Column("SINCE", lambda cluster: moment(cluster.get("state_since"))),
    Column("LAST ANSWER", lambda cluster: ago(cluster.get("seen_at")) if cluster.get("seen_at") else "never"),
    Column("ANSWERS TAKE", _answers),
    Column("LIMITS", _limits),
    Column("IMAGES", lambda cluster: cluster.get("images") or "none"),
    Column("WHY", lambda cluster: cluster.get("reason") or None, below=True),
)


def clusters(json: Json = False) -> None:
    """List clusters: what runs work, whether it answers, since when not and why, and how long its answers take."""
    with connect() as client:
        listing(client.items("/v1/clusters"), _CLUSTERS, as_json=json, empty="There are no clusters.")


@nodes_app.command("show")
def show_node(node: Node, cluster: Cluster = None, json: Json = False) -> None:
    """Show a node with its devices, and the jobs on it that you may see."""
    from dujiang.client import segment

    with connect() as client:
        found = client.get(f"/v1/nodes/{segment(node)}", cluster=cluster)
        jobs = list(client.items("/v1/jobs", node=found["id"]))
    if json:
        write_json({**found, "jobs": [{name: job[name] for name in ("id", "name", "project")} for job in jobs]})
        return
    write_facts(
        [
            ("node", _name(found)),
            ("id", found.get("id")),
            ("cluster", found.get("cluster")),
            ("state", stated(found)),
            ("cores", _of(found.get("free_cpu_milli"), found.get("cpu_milli"), milli) + " free"),
            ("memory", _of(found.get("free_memory_bytes"), found.get("memory_bytes"), size) + " free"),
            ("disk", _of(found.get("free_disk_bytes"), found.get("disk_bytes"), size) + " free"),
            *((level, found.get(level)) for level in ("switch", "rack", "site")),
            ("labels", ", ".join(f"{key}={value}" for key, value in (found.get("labels") or {}).items())),
            ("taints", ", ".join(found.get("taints") or [])),
            ("seen", moment(found.get("seen_at"))),
        ]
    )
    if found.get("devices"):
        sys.stdout.write("\n")
        listing(found["devices"], _DEVICES, as_json=False, empty="")
    if jobs:
        sys.stdout.write("\n")
        listing(jobs, _JOBS, as_json=False, empty="")


_JOBS = (col("JOB", "id"), col("NAME"), col("PROJECT"), col("STATE"))

_DEVICES = (
    Column("DEVICE", lambda device: device.get("index"), right=True),
    col("NAME"),
    col("VENDOR"),
    col("MODEL"),
    col("STATE"),
    Column("FREE", lambda device: milli(device.get("free_gpu_milli")), right=True),
    Column("FREE MEMORY", lambda device: _of(device.get("free_memory_bytes"), device.get("memory_bytes"), size)),
    Column("A SHARE IS", lambda device: device.get("isolation")),
)


_CLOSED = ("CORDONED", "DRAINING", "DRAINED")


def _act(verb: str, done: str, node: str, cluster: str | None, reason: str, as_json: bool) -> None:
    from dujiang.client import segment

    with connect() as client:
        found = client.post(f"/v1/nodes/{segment(node)}/{verb}", {"reason": reason}, cluster=cluster)
    if as_json:
        write_json(found)
    elif verb == "uncordon" and found["state"] in _CLOSED:
        say(f"{found['name']} is open here; its cluster still shows it {found['state']}.")
        note(
            "If `dujiang nodes` shows it so in some seconds too, somebody closed it there and has to open it there "
            "(kubectl uncordon, scontrol update state=resume)."
        )
    else:
        say(f"{found['name']} is {done}; its state is {found['state']}.")


@nodes_app.command("cordon")
def cordon(node: Node, reason: Reason = "", cluster: Cluster = None, json: Json = False) -> None:
    """Let nothing new start on a node; what runs goes on."""
    _act("cordon", "cordoned", node, cluster, reason, json)


@nodes_app.command("uncordon")
def uncordon(node: Node, reason: Reason = "", cluster: Cluster = None, json: Json = False) -> None:
    """Open a node again; ends a drain too."""
    _act("uncordon", "open again", node, cluster, reason, json)


@nodes_app.command("drain")
def drain(node: Node, reason: Reason = "", cluster: Cluster = None, json: Json = False) -> None:
    """Cordon a node and move away what runs there, saving first."""
    _act("drain", "being drained", node, cluster, reason, json)


@nodes_app.command("label")
def label(node: Node, labels: Marks, cluster: Cluster = None, json: Json = False) -> None:
    """Set labels of a node over those of its engine (key=value), or take them away again (key-)."""
    given, removed = _marks(labels)
    wrong = next((text for text in given if "=" not in text), None)
    if wrong is not None:
        raise Stop(f'"{wrong}" has no value; write {wrong}=VALUE, or {wrong}- to take it away.', Exit.USAGE)
    body = {"set": dict(text.split("=", 1) for text in given), "remove": removed}
    found = _mark("labels", node, cluster, body)
    if json:
        write_json(found)
    else:
        say(f"{found['name']} has the labels {_joined(f'{k}={v}' for k, v in found['labels'].items())}.")


@nodes_app.command("taint")
def taint(node: Node, taints: Marks, cluster: Cluster = None, json: Json = False) -> None:
    """Keep new work away unless it tolerates this (key or key=value), or take that back (key-); what runs goes on."""
    given, removed = _marks(taints)
    found = _mark("taints", node, cluster, {"set": given, "remove": removed})
    if json:
        write_json(found)
    else:
        say(f"{found['name']} has the taints {_joined(found['taints'])}.")


def _marks(texts: list[str]) -> tuple[list[str], list[str]]:
    """Return what is to be set, and the keys of what is to be taken away."""
    removed = [text[:-1] for text in texts if text.endswith("-") and "=" not in text]
    return [text for text in texts if not (text.endswith("-") and "=" not in text)], removed


def _mark(what: str, node: str, cluster: str | None, body: dict[str, Any]) -> Any:
    from dujiang.client import segment

    with connect() as client:
        return client.post(f"/v1/nodes/{segment(node)}/{what}", body, cluster=cluster)


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(texts) or "none"


def pool(json: Json = False) -> None:
    """Show what the pool has in all, and what is left of it; --json lists each kind of resource as one row."""
    with connect() as client:
        found = client.get("/v1/pool")
    if json:
        write_json(_rows(found))
        return
    states = ", ".join(f"{count} {state}" for state, count in found.get("node_states", {}).items())
    heading(f"{found.get('clusters')} cluster{'s' if found.get('clusters') != 1 else ''}, nodes: {states or 'none'}")
    rows = [
        [clean(row["resource"]), _shown(row, "total"), _shown(row, "allocated"), _shown(row, "free"), _largest(row)]
        for row in _rows(found)
    ]
    right = [False, True, True, True, True]
    write_table(["RESOURCE", "TOTAL", "HELD", "FREE", "LARGEST ON ONE NODE"], rows, right=right)
    unseen = [clean(silent["cluster"]) for silent in found.get("silent") or [] if not silent["nodes"]]
    if unseen:
        say(f"Nothing is known of {', '.join(unseen)}: no answer from there; `dujiang clusters` says why.")
    for silent in (one for one in found.get("silent") or [] if one["nodes"]):
        there = f"{silent['nodes']} node{'s' if silent['nodes'] != 1 else ''} with {silent['devices']} devices"
        since = f" since {moment(silent['state_since'])}" if silent.get("state_since") else ""
        say(f"Of these {there} are on {clean(silent['cluster'])}, {silent['state']}{since}: nothing new starts there.")
    if not found.get("devices"):
        say("There is no GPU; `dujiang doctor` says what was looked for.")


def _rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for kind in found.get("devices", []):
        label = " (simulated)" if kind.get("simulated") else ""
        name = f"{kind['vendor']} {kind['model']}{label}"
        largest = {"largest": max(kind.get("largest_free_milli", 0), 1000 * kind.get("most_untouched_on_a_node", 0))}
        rows.append({"resource": name, "unit": "milli", **kind["gpu_milli"], **largest, "simulated": kind["simulated"]})
        rows.append(
            {"resource": f"{name} memory", "unit": "bytes", **kind["device_memory"], "simulated": kind["simulated"]}
        )
    for hosts in found.get("hosts", []):
        label = " (simulated)" if hosts.get("simulated") else ""
        simulated = {"simulated": hosts.get("simulated")}
        rows += [
            {"resource": f"cores{label}", "unit": "milli", **hosts["cpu_milli"],
             "largest": hosts.get("largest_free_cpu_milli"), **simulated},
            {"resource": f"memory{label}", "unit": "bytes", **hosts["memory_bytes"],
             "largest": hosts.get("largest_free_memory_bytes"), **simulated},
            {"resource": f"disk{label}", "unit": "bytes", **hosts["disk_bytes"], **simulated},
        ]  # fmt: skip
    return rows


def _shown(row: dict[str, Any], field: str) -> str:
    return milli(row[field]) if row["unit"] == "milli" else size(row[field])


def _largest(row: dict[str, Any]) -> str:
    return _shown(row, "largest") if isinstance(row.get("largest"), int) else "-"
