"""Slurm's words in ours: the table of docs/slurm.md row by row, and what its commands print, as 22.05 prints it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from dujiang.engines.contract import AttemptKey, Checkpointing, DeviceShare, End, EngineRefused, Launch, RankPlacement
from dujiang.engines.slurm import accounts, asking, nodes, reading, words
from dujiang.engines.slurm.runner import granted, launch_on, read_requests, together
from dujiang.engines.slurm.settings import SlurmSettings

DOCS = Path(__file__).parents[2] / "docs" / "slurm.md"
ROW = re.compile(r"^\| `([A-Z_]*)` \| `(\w+)` \| `(\w+)` \|", re.MULTILINE)
SETTINGS = SlurmSettings(work_dir="/shared/dujiang", partition="train", device_memory_bytes={"h100": 80 << 30})
NODE = (
    "NodeName=g1 Arch=x86_64 CoresPerSocket=32  CPUAlloc=6 CPUEfctv=62 CPUTot=64 CPULoad=1.55 AvailableFeatures=ib,h100"
    " ActiveFeatures=ib,h100 Gres=gpu:h100:4(S:0-1) GresDrain=N/A GresUsed=gpu:h100:3(IDX:0-2) NodeAddr=10.0.0.7"
    " NodeHostName=g1 Port=0 Version=22.05.8 OS=Linux 6.1 #1 SMP @0  RealMemory=1000 AllocMem=300 FreeMem=21735"
    " Sockets=2 Boards=1 State={state} ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A"
    " Partitions=all,train  BootTime=2026-11-25T20:51:38 LastBusyTime=2026-11-26T01:36:15 CfgTRES=cpu=64,mem=500G"
    " AllocTRES= CapWatts=n/a ExtSensorsTemp=n/s{reason}"
)


def test_the_documented_table_is_the_table() -> None:
    told = {state: (End(before), End(after)) for state, before, after in ROW.findall(DOCS.read_text())}
    unknown = told.pop("")
    assert told == dict(words.ENDS)
    assert unknown == (words.end_of("", began=False), words.end_of("", began=True))


@pytest.mark.parametrize("state", sorted(words.ENDS))
def test_each_state_ends_before_and_after_the_start(state: str) -> None:
    assert words.is_over(state)
    assert (words.end_of(state, began=False), words.end_of(state, began=True)) == words.ENDS[state]


@pytest.mark.parametrize("state", sorted(words.WAITS | words.RUNS))
def test_what_waits_or_runs_is_not_over(state: str) -> None:
    assert not words.is_over(state)
    assert state not in words.ENDS


@pytest.mark.parametrize(
    ("text", "state"),
    [("CANCELLED by 1000", "CANCELLED"), ("CANCELLED+", "CANCELLED"), ("COMPLETED", "COMPLETED"), ("", "")],
)
def test_a_state_is_read_without_what_follows(text: str, state: str) -> None:
    assert words.base_state(text) == state


def _end(end: str, signal: int | None = None, code: int | None = None) -> dict[str, object]:
    return {"end": end, "signal": signal, "exit_code": code, "rank": 0, "at": 1, "evidence": [], "facts": {}}


@pytest.mark.parametrize(
    ("wrote", "state", "end"),
    [
        (_end("Lost"), "CANCELLED", "Stopped"),
        (_end("Lost"), "TIMEOUT", "TimeLimit"),
        (_end("Lost"), "PREEMPTED", "Preempted"),
        (_end("Lost"), "", "Lost"),
        (_end("Lost"), "FAILED", "Lost"),
        (_end("Signaled", 15), "CANCELLED", "Stopped"),
        (_end("Signaled", 15), "NODE_FAIL", "NodeLost"),
        (_end("Signaled", 9), "OUT_OF_MEMORY", "OutOfMemory"),
        (_end("Signaled", 9), "FAILED", "Signaled"),
        (_end("Signaled", 15), "", "Signaled"),
        (_end("Exited", None, 143), "CANCELLED", "Stopped"),
        (_end("Exited", None, 137), "PREEMPTED", "Preempted"),
        (_end("Exited", None, 143), "FAILED", "Exited"),
    ],
)
def test_slurm_explains_a_signal_that_the_runner_only_saw(wrote: dict[str, object], state: str, end: str) -> None:
    assert words.is_open(wrote)
    assert words.closed(wrote, state)["end"] == end


@pytest.mark.parametrize(
    "wrote", [_end("Exited", None, 3), _end("Exited", None, 139), _end("Stopped", 9), _end("Signaled", 11)]
)
def test_the_runners_word_stands_where_it_is_certain(wrote: dict[str, object]) -> None:
    assert not words.is_open(wrote)


def test_host_lists() -> None:
    assert reading.expand("a1,g[001-003,7]-ib,x[1-2]y[3-4]") == [
        "a1", "g001-ib", "g002-ib", "g003-ib", "g7-ib", "x1y3", "x1y4", "x2y3", "x2y4",
    ]  # fmt: skip
    assert reading.expand("") == []


def test_topology_gives_the_lowest_switch() -> None:
    text = "SwitchName=s1 Level=0 LinkSpeed=1 Nodes=n[1-2]\nSwitchName=top Level=1 LinkSpeed=1 Nodes=n[1-2] Switches=s1"
    assert reading.switches_of(text) == {"n1": "s1", "n2": "s1"}


def test_gres_in_all_its_forms() -> None:
    text = "gpu:h100:8(S:0-1),gpu:2,shard:h100:16,craynetwork:(null):4"
    assert [(one.name, one.type, one.count) for one in reading.gres_of(text)] == [
        ("gpu", "h100", 8), ("gpu", "", 2), ("shard", "h100", 16), ("craynetwork", "", 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "reason", "ready", "cordoned", "told"),
    [
        ("IDLE", "", True, False, ""),
        ("MIXED+DRAIN", " Reason=dujiang: new fans [root@2026-11-26T01:36:15]", True, True, "new fans"),
        ("IDLE+DRAIN", " Reason=memory module 3 [ann@2026-11-26T01:36:15]", True, True, "memory module 3"),
        ("DOWN*", " Reason=Not responding [slurm@2026-11-26T01:36:15]", False, False, "Not responding"),
        ("IDLE*", "", False, False, ""),
        ("IDLE+CLOUD+POWERED_DOWN", "", True, False, ""),
    ],
)
def test_states_and_reasons_of_nodes(state: str, reason: str, ready: bool, cordoned: bool, told: str) -> None:
    (node,) = reading.nodes_of(NODE.format(state=state, reason=reason))
    facts = nodes.facts_of(node, held=nodes.Held(), closed=None, switch="s1", settings=SETTINGS)
    assert (facts.ready, facts.cordoned, facts.reason) == (ready, cordoned, told)
    assert nodes.is_persons(node) is (bool(reason) and "dujiang" not in reason)


def test_what_others_hold_is_taken_off() -> None:
    (node,) = reading.nodes_of(NODE.format(state="MIXED", reason=""))
    held = nodes.Held(cpu_milli=1500, memory_bytes=100 << 20, devices={"h100-3"})
    facts = nodes.facts_of(node, held=held, closed=None, switch="s1", settings=SETTINGS)
    assert facts.cpu_milli == 62_000 - (6_000 - 1_500)
    assert facts.memory_bytes == (1000 - 200) << 20
    assert [device.name for device in facts.devices] == ["h100-0", "h100-3"]
    assert (facts.devices[0].memory_bytes, facts.labels["dujiang.io/switch"]) == (80 << 30, "s1")
    assert facts.labels["slurm.schedmd.com/feature-ib"] == "true"


def _launch(ranks: list[tuple[str, int, list[str]]], **fields: object) -> Launch:
    placed = tuple(
        RankPlacement(nth, node, milli, 100 << 20, devices=tuple(DeviceShare(name, 0, 1000, 0) for name in names))
        for nth, (node, milli, names) in enumerate(ranks)
    )
    return Launch(**{"key": AttemptKey("j", 2), "name": "n", "project": "p", "run": "true", "ranks": placed, **fields})


def test_what_sbatch_is_told() -> None:
    devices = {"g1": {"h100-0": "h100", "h100-1": "h100"}, "g2": {"h100-0": "h100"}}
    launch = _launch(
        [("g1", 500, ["h100-0"]), ("g1", 700, ["h100-1"]), ("g2", 500, ["h100-0"])], time_limit_s=90.0,
        checkpoint=Checkpointing("/c", 10),
    )  # fmt: skip
    batch = asking.batch(launch, asking.portions(launch.ranks, devices), "m", "/f", SETTINGS)
    told = asking.options(batch, SETTINGS)
    assert {
        "--comment=dujiang:m:j.2", "--nodelist=g1,g2", "--nodes=2", "--cpus-per-task=2", "--mem=200M",
        "--gres=gpu:h100:2", "--time=4", "--no-requeue", "--partition=train", "--signal=B:USR2@45",
    } <= set(told)  # fmt: skip


def test_what_could_never_run_is_refused() -> None:
    devices = {"g1": {"h100-0": "h100"}}
    for launch, word in [
        (_launch([("g9", 500, [])]), "g9"),
        (_launch([("g1", 500, ["h100-9"])]), "h100-9"),
        (_launch([("g1", 500, [])], workdir="here"), "absolute"),
        (_launch([("g1", 500, [])], run="a\0b"), "NUL"),
    ]:
        with pytest.raises(EngineRefused, match=word):
            asking.refuse_impossible(launch, devices, SETTINGS)
    share = Launch(AttemptKey("j", 1), "n", "p", "true", (
        RankPlacement(0, "g1", 500, 0, devices=(DeviceShare("h100-0", 0, 500, 0),)),
    ))  # fmt: skip
    with pytest.raises(EngineRefused, match="whole"):
        asking.refuse_impossible(share, devices, SETTINGS)


def test_the_devices_are_those_that_slurm_gave() -> None:
    assert granted({"CUDA_VISIBLE_DEVICES": "3,5"}) == ["3", "5"]
    assert granted({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}) == []
    ranks = [
        {"rank": 0, "node": "g1", "devices": [{"name": "h100-0", "index": 0}]},
        {"rank": 1, "node": "g2", "devices": []},
        {"rank": 2, "node": "g1", "devices": [{"name": "h100-1", "index": 1}]},
    ]
    launch = {"ranks": ranks, "setup": "x", "inputs": [1], "record_environment": True, "master_addr": "10.0.0.7"}
    here = launch_on(launch, "g1", ["3", "5"])
    assert [rank["devices"][0]["name"] for rank in here["ranks"]] == ["3", "5"]
    assert (here["world"], here["setup"]) == (3, "x")
    there = launch_on(launch, "g2", [])
    assert ([rank["rank"] for rank in there["ranks"]], there["setup"], there["master_addr"]) == ([1], "", "10.0.0.7")


def test_a_share_of_a_device_that_slurm_does_not_name_is_not_guessed() -> None:
    ranks = [{"rank": 0, "node": "g1", "devices": [{"name": "h100-0", "index": 0}]}]
    launch = {"ranks": ranks, "master_addr": "", "granted_only": True}
    assert launch_on(launch, "g1", ["3"])["ranks"][0]["devices"][0]["name"] == "3"
    with pytest.raises(RuntimeError, match="which device"):
        launch_on(launch, "g1", [])
    assert launch_on({**launch, "granted_only": False}, "g1", [])["ranks"][0]["devices"][0]["name"] == "0"


def test_shares_are_asked_for_as_shards() -> None:
    settings = replace(SETTINGS, fractions="shard")
    launch = Launch(AttemptKey("j", 1), "n", "p", "true", (
        RankPlacement(0, "g1", 500, 0, devices=(DeviceShare("h100-0", 0, 300, 0),)),
    ))  # fmt: skip
    taken = asking.portions(launch.ranks, {"g1": {"h100-0": "h100"}}, {"g1": 4})
    told = asking.options(asking.batch(launch, taken, "m", "/f", settings), settings)
    assert "--gres=shard:2" in told  # 1.2 of four, rounded up


def test_requests_are_read_by_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "requests"
    assert read_requests(str(path), 0) == ([], 0)
    path.write_bytes(b"stop 5.0\nnonsense\nsignal 1")
    assert read_requests(str(path), 0) == ([("stop", 5.0)], 18)
    path.write_bytes(b"stop 5.0\nnonsense\nsignal 10\n")
    assert read_requests(str(path), 18) == ([("signal", 10.0)], 28)


def test_the_first_failure_ends_an_attempt_of_several_nodes() -> None:
    good = {**_end("Exited", None, 0), "at": 5}
    bad = {**_end("Exited", None, 3), "rank": 1, "at": 9}
    stopped = {**_end("Stopped", 15), "at": 7}
    assert together(["a", "b"], {"a": good, "b": good}, None, "")["exit_code"] == 0
    ended = together(["a", "b"], {"a": stopped, "b": bad}, "b", "")
    assert (ended["exit_code"], ended["rank"], ended["at"]) == (3, 1, 9)
    assert together(["a", "b"], {"a": good, "b": stopped}, None, "")["end"] == "Stopped"
    assert together(["a", "b"], {"a": good}, None, "srun ended with 1")["end"] == "NodeLost"


SACCT = """\
7|COMPLETED|1795670538|1795670540|2|2|billing=2,cpu=2,gres/gpu:h100=2,gres/gpu=2,mem=1000G,node=2|n[1-2]||/w|dj-job_x.1
8|CANCELLED by 0|None|1795670540|0|0||None assigned||/w/|dj-job_y.2
9|RUNNING|1795670538|Unknown|40|4|cpu=4,gres/gpu:a=1,gres/gpu:b=2|n3|dujiang:m:job_z.1|/elsewhere|renamed
10|COMPLETED|1795670538|1795670540|2|1|cpu=1|n1||/other|dj-job_x.1
11|COMPLETED|1795670538|1795670540|2|1|cpu=1|n1|dujiang:other:job_x.1|/w|dj-job_x.1
12|COMPLETED|1795670538|1795670540|2|1|cpu=1|n1||/w|a person's|with a bar
"""


def test_what_sacct_says_of_our_jobs() -> None:
    found = list(accounts.accounted(SACCT, "m", "/w"))
    assert [(str(one.key), one.job, one.state, one.cpu_milli, one.devices, one.nodes) for one in found] == [
        ("job_x.1", "7", "COMPLETED", 2000, 2, ("n1", "n2")), ("job_y.2", "8", "CANCELLED", 0, 0, ()),
        ("job_z.1", "9", "RUNNING", 4000, 3, ("n3",)),
    ]  # fmt: skip
    assert [one.elapsed_s for one in found] == [2.0, 0.0, 40.0]
    assert [one.started_at is not None and one.ended_at is not None for one in found] == [True, False, False]
    assert found[0].started_at is not None
    assert found[0].started_at.isoformat() == "2026-11-26T05:22:18+00:00"
