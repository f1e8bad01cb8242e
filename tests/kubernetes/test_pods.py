"""What an attempt becomes in the cluster: names, the record, the Pod with its settings; and what is refused."""

from __future__ import annotations

import base64
import json
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.engines.contract import AttemptKey, Checkpointing, DeviceShare, EngineRefused, Launch, RankPlacement
from dujiang.engines.kubernetes import pods, records, runner
from dujiang.engines.kubernetes.nodes import KubeNode
from dujiang.engines.kubernetes.pods import Plan
from dujiang.engines.kubernetes.records import GATE, KEEP, Record
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.kubernetes.sharing import DeviceRequest

KEY = AttemptKey("job_01k8xyzxyzxyzxyzxyzxyzxyz1", 2)
BASE: dict[str, Any] = {"image": "base:1"}


def a_node(name: str, *taints: tuple[str, str, str]) -> KubeNode:
    return KubeNode(name, "u", {}, taints, False, True, "", f"10.0.0.{name[-1]}", 8000, 1 << 30, 0, 110)


def a_launch(ranks: int = 1, **more: Any) -> Launch:
    placed = tuple(RankPlacement(rank, f"n{rank + 1}", 1500, 256 << 20) for rank in range(ranks))
    placed = more.pop("placed", placed)
    return Launch(
        **{"key": KEY, "name": "train", "project": "vision", "run": "python train.py", "ranks": placed, **more}
    )


def a_plan(
    launch: Launch, *taints: tuple[str, str, str], devices: DeviceRequest | None = None, **settings: Any
) -> Plan:
    nodes = {rank.node: a_node(rank.node, *taints) for rank in launch.ranks}
    asked = [devices or DeviceRequest() for _ in launch.ranks]
    return Plan(launch, "mark", KubernetesSettings(**{**BASE, **settings}), nodes, "dujiang-vision", asked)


def as_made(body: dict[str, Any], **notes: str) -> dict[str, Any]:
    meta = {**body["metadata"], "uid": "record-uid", "resourceVersion": "5"}
    return {**body, "metadata": {**meta, "annotations": {**meta["annotations"], **notes}}}


def a_record(plan: Plan, **notes: str) -> Record:
    found = records.reduce_record(as_made(pods.first(plan, 7), **notes))
    assert found is not None
    return found


def a_pod(
    launch: Launch, *taints: tuple[str, str, str], rank: int = 0, devices: DeviceRequest | None = None, **settings: Any
) -> dict[str, Any]:
    plan = a_plan(launch, *taints, devices=devices, **settings)
    return pods.pod(plan, a_record(plan), rank) if rank else pods.first(plan, 7)


def box(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pod["spec"]["containers"][0]
    return found


def sources(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what lies beside the runner."""
    volume = next(each for each in pod["spec"]["volumes"] if each["name"] == "dujiang-bin")
    found: list[dict[str, Any]] = volume["projected"]["sources"]
    return found


def env(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of its program: those of its container, and those that the runner sets."""
    found = {each["name"]: each.get("value", each.get("valueFrom")) for each in box(pod)["env"]}
    lines = shlex.split(pod["metadata"]["annotations"].get("dujiang.io/file.env", ""))
    return found | dict(each.split("=", 1) for each in lines if each != "export")


def test_what_needs_one_folder_for_all_ranks_is_refused_where_there_is_none() -> None:
    """Each rank would wait for its orders in a folder of its own, for ever; mpirun gives up after five minutes."""
    nodes = {f"n{nth}": a_node(f"n{nth}") for nth in (1, 2)}
    gang, alone, other = a_launch(2, shares_output=True), a_launch(1, shares_output=True), a_launch(2)
    shared: dict[str, Any] = {"work_dir": "/dujiang", "work_volume": {"nfs": {"server": "s", "path": "/p"}}}
    own: dict[str, Any] = {**shared, "work_volume": {"emptyDir": {}}}
    for settings in (BASE, {**BASE, **own}):
        with pytest.raises(EngineRefused, match="set `work_dir` and `work_volume`"):
            pods.refuse_impossible(gang, nodes, KubernetesSettings(**settings))
        pods.refuse_impossible(alone, nodes, KubernetesSettings(**settings))
        pods.refuse_impossible(other, nodes, KubernetesSettings(**settings))
    pods.refuse_impossible(gang, nodes, KubernetesSettings(**BASE, **shared))


# -- names ------------------------------------------------------------------------------------------------------------


def test_the_platforms_own_identifiers_are_legible_in_names() -> None:
    assert records.name_of(KEY) == "dj-job-01k8xyzxyzxyzxyzxyzxyzxyz1-2"


@given(st.lists(st.text("aA_-0", min_size=1, max_size=120), unique=True, min_size=2, max_size=30))
def test_no_two_keys_share_a_name_and_all_are_labels_of_dns(jobs: list[str]) -> None:
    names = [records.name_of(AttemptKey(job, number)) for job in jobs for number in (1, 11)]
    assert len(set(names)) == len(names)
    assert all(len(f"{name}-1023") <= 63 for name in names)
    assert all(name.replace("-", "").isalnum() and name == name.lower() and name[-1] != "-" for name in names)


@pytest.mark.parametrize("key", [AttemptKey("a/b", 1), AttemptKey("", 1), AttemptKey("a", 0), AttemptKey("x" * 121, 1)])
def test_a_key_that_cannot_name_anything_is_refused(key: AttemptKey) -> None:
    with pytest.raises(EngineRefused, match="letters"):
        records.refuse_bad_key(key)


# -- the record -------------------------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written_and_holds_no_secret() -> None:
    plan = a_plan(a_launch(2, secrets={"TOKEN": "s3cret"}, grace_s=12.5, ports=2))
    assert "s3cret" not in json.dumps(pods.first(plan, 7))
    record = a_record(plan)
    assert (record.key, record.ranks, record.pod(1)) == (KEY, 2, f"{records.name_of(KEY)}-1")
    assert record.path == f"/api/v1/namespaces/dujiang-vision/pods/{records.name_of(KEY)}-0"
    assert (record.launch["grace_s"], record.launch["at_us"], len(record.launch["ports"])) == (12.5, 7, 2)
    assert (record.is_made, record.stop, record.verdict) == (False, None, None)


def test_what_is_written_on_a_record_is_read_back() -> None:
    plan = a_plan(a_launch(2))
    record, notes = a_record(plan), dict[str, str]()
    stop = records.Stop("asked", 5, 9, "because")
    verdict = {"end": "Exited", "exit_code": 0}
    for change in (records.made(record), records.stopped(record, stop), records.judged(record, verdict)):
        assert (change["metadata"]["uid"], change["metadata"]["resourceVersion"]) == ("record-uid", "5")
        notes |= change["metadata"]["annotations"]
    now = a_record(plan, **notes)
    assert (now.is_made, now.stop, now.verdict) == (True, stop, verdict)


def test_a_verdict_that_no_annotation_holds_goes_without_its_facts() -> None:
    record = a_record(a_plan(a_launch()))
    verdict = {"end": "Exited", "exit_code": 3, "facts": {"environment": "x" * 300_000}}
    change = records.judged(record, verdict)["metadata"]["annotations"]
    now = a_record(a_plan(a_launch()), **change)
    assert now.verdict == {"end": "Exited", "exit_code": 3, "facts": {}}


def test_what_is_one_pod_begins_at_once_and_all_else_waits_for_the_rest() -> None:
    claim = DeviceRequest(claim={"devices": {}})
    heavy = "x" * 70_000
    for launch, devices, is_one in (
        (a_launch(), None, True),
        (a_launch(2), None, False),
        (a_launch(secrets={"A": "b"}), None, False),
        (a_launch(), claim, False),
        (a_launch(run=heavy), None, False),
    ):
        plan = a_plan(launch, devices=devices)
        assert a_record(plan).is_made is is_one
        assert ("schedulingGates" in pods.first(plan, 7)["spec"]) is not is_one
        assert bool(pods.beside(plan, a_record(plan))) is not is_one


def test_the_tombstone_of_an_attempt_is_what_its_pods_would_find() -> None:
    record = a_record(a_plan(a_launch()))
    stone = records.tombstone(record, "mark", datetime(2026, 1, 31, tzinfo=UTC))
    assert stone["metadata"]["labels"][records.FORGOTTEN] == "20260131"
    assert records.reduce_tombstone(stone) == KEY
    (found,) = [
        source["configMap"] for source in sources(a_pod(a_launch())) if "optional" in source.get("configMap", {})
    ]
    assert (found["name"], found["optional"]) == (stone["metadata"]["name"], True)
    assert [item["key"] for item in found["items"]] == list(stone["data"])


def test_files_lie_in_annotations_while_they_are_small_and_in_a_config_map_of_their_own_after_that() -> None:
    small = a_pod(a_launch(2, run="echo 'a$b'\n", setup="true"), rank=1)
    (source,) = [source["downwardAPI"] for source in sources(small) if "downwardAPI" in source]
    assert [item["path"] for item in source["items"]] == ["launch", "run", "setup", "env"]
    assert small["metadata"]["annotations"][f"{records.FILE}run"] == "echo 'a$b'\n"
    for launch in (a_launch(run="x" * 70_000), a_launch(2, run="x" * 40_000)):
        plan = a_plan(launch)
        ((path, body),) = [each for each in pods.beside(plan, a_record(plan)) if each[1]["kind"] == "ConfigMap"]
        assert path == "/api/v1/namespaces/dujiang-vision/configmaps"
        assert body["data"]["run"] == launch.run
        assert body["metadata"]["ownerReferences"][0]["uid"] == "record-uid"
        assert {"configMap": {"name": body["metadata"]["name"]}} in sources(pods.first(plan, 7))
        assert len(json.dumps(pods.first(plan, 7))) < 20_000


def test_a_text_that_no_config_map_holds_is_refused() -> None:
    with pytest.raises(EngineRefused, match="ConfigMap"):
        a_record(a_plan(a_launch(run="x" * 1_000_000)))


# -- the Pod ----------------------------------------------------------------------------------------------------------


def test_a_pod_is_pinned_guaranteed_and_without_rights() -> None:
    pod = a_pod(a_launch())
    spec = pod["spec"]
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    assert spec["affinity"] == {"nodeAffinity": required}
    assert (
        box(pod)["resources"]["limits"]
        == box(pod)["resources"]["requests"]
        == {"cpu": "1500m", "memory": str(256 << 20)}
    )
    assert (spec["restartPolicy"], spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (
        "Never",
        False,
        False,
    )
    assert box(pod)["securityContext"] == {"allowPrivilegeEscalation": False}
    assert pod["metadata"]["finalizers"] == [KEEP]
    assert "ownerReferences" not in pod["metadata"]
    assert "schedulingGates" not in spec
    assert "activeDeadlineSeconds" not in spec
    assert spec["terminationGracePeriodSeconds"] == 40
    assert (box(pod)["image"], box(pod)["imagePullPolicy"]) == ("base:1", "IfNotPresent")
    assert box(pod)["command"] == ["/bin/sh", "/dujiang/bin/runner", "run", "0"]


def test_a_gang_waits_behind_a_gate_and_finds_itself_by_names() -> None:
    pod = a_pod(a_launch(2, secrets={"TOKEN": "x"}), rank=1)
    name = records.name_of(KEY)
    assert pod["spec"]["schedulingGates"] == [{"name": GATE}]
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "record-uid"
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == (f"{name}-1", name)
    found = env(pod)
    assert (found["RANK"], found["WORLD_SIZE"], found["MASTER_ADDR"]) == ("1", "2", f"{name}-0.{name}")
    assert found["DUJIANG_HOSTS"] == f"{name}-0.{name},{name}-1.{name}"
    plan = a_plan(a_launch(2, secrets={"TOKEN": "x"}))
    assert pods.service(plan, a_record(plan))["spec"]["publishNotReadyAddresses"] is True
    assert pods.service(plan, a_record(plan))["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_on_the_nodes_network_ranks_find_one_another_by_addresses() -> None:
    pod = a_pod(a_launch(2), rank=1, network="host")
    assert pod["spec"]["hostNetwork"] is True
    assert "subdomain" not in pod["spec"]
    assert (env(pod)["MASTER_ADDR"], env(pod)["DUJIANG_HOSTS"]) == ("10.0.0.1", "10.0.0.1,10.0.0.2")
    assert not a_plan(a_launch(2), network="host").has_service


def test_variables_come_as_they_are_and_facts_cannot_be_faked() -> None:
    launch = a_launch(
        env={"A": "$HOME $(B) $$", "RANK": "9", "OMP_NUM_THREADS": "7"}, secrets={"T": "s", "WORLD_SIZE": "5"}
    )
    found = env(a_pod(launch))
    assert (found["A"], found["RANK"], found["WORLD_SIZE"], found["OMP_NUM_THREADS"]) == (
        "$HOME $(B) $$",
        "0",
        "1",
        "7",
    )
    assert found["T"] == {"secretKeyRef": {"name": records.name_of(KEY), "key": "s0"}}
    plan = a_plan(launch)
    assert base64.b64decode(pods.secret(plan, a_record(plan))["data"]["s0"]) == b"s"


def test_what_a_shell_or_the_runtime_reads_itself_is_in_the_container_from_the_start() -> None:
    given = {
        "IFS": ":",
        "PATH": "/opt/$x",
        "LD_PRELOAD": "a.so",
        "dj_bin": "/x",
        "BASH_ENV": "y",
        "not-a-name": "1",
        "A": "b",
    }
    asked = DeviceRequest(env={"NVIDIA_VISIBLE_DEVICES": "void"})
    pod = a_pod(a_launch(env=given, secrets={"NVIDIA_VISIBLE_DEVICES": "all"}), devices=asked)
    container = {each["name"]: each["value"] for each in box(pod)["env"]}
    del given["A"]
    assert container == {**given, "PATH": "/opt/$$x", "NVIDIA_VISIBLE_DEVICES": "void"}
    assert env(pod)["A"] == "b"


def test_variables_that_are_too_long_for_an_annotation_are_the_containers() -> None:
    pod = a_pod(a_launch(env={"A": "x" * 100_000}))
    assert "dujiang.io/file.env" not in pod["metadata"]["annotations"]
    assert {each["name"] for each in box(pod)["env"]} >= {"A", "RANK", "DUJIANG_JOB_ID"}


def test_the_scheduler_is_passed_by_where_the_site_says_so_and_the_attempt_is_one_pod() -> None:
    spec = a_pod(a_launch(), ("a", "b", "NoExecute"), placement="bound")["spec"]
    assert (spec["nodeName"], "affinity" in spec) == ("n1", False)
    assert spec["tolerations"] == [{"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute"}]
    fraction, claimed = DeviceRequest(scheduler="kai-scheduler"), DeviceRequest(claim={"spec": {}})
    for pod in (
        a_pod(a_launch(2), placement="bound"),
        a_pod(a_launch(secrets={"T": "s"}), placement="bound"),
        a_pod(a_launch(), placement="bound", devices=fraction),
        a_pod(a_launch(), placement="bound", devices=claimed),
    ):
        required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert required["nodeSelectorTerms"][0]["matchFields"][0]["values"] == ["n1"]
        assert "nodeName" not in pod["spec"]
    for also in ({"queue": "q"}, {"scheduler": "s"}):
        with pytest.raises(ValueError, match="asks no scheduler"):
            KubernetesSettings(**{**BASE, "placement": "bound", **also})


def test_only_the_first_rank_has_a_probe_and_only_where_others_wait_for_it() -> None:
    assert "startupProbe" in box(a_pod(a_launch(2, setup="x")))
    assert "startupProbe" not in box(a_pod(a_launch(2, setup="x"), rank=1))
    assert "startupProbe" not in box(a_pod(a_launch(1, setup="x")))
    assert "startupProbe" not in box(a_pod(a_launch(2)))
    assert "startupProbe" not in box(a_pod(a_launch(2, setup="x"), work_dir="/w", work_volume={"nfs": {}}))


def test_what_can_be_set_arrives() -> None:
    pod = a_pod(
        a_launch(2, image="own:2", time_limit_s=60.0), scheduler="volcano", priority_class="low",
        runtime_class="nvidia", service_account="me", image_pull_secrets=("pull",), queue="team", work_dir="/shared",
        gang_start_s=100.0, work_volume={"nfs": {"server": "s", "path": "/p"}},
        volumes={"/data": {"hostPath": {"path": "/d"}, "readOnly": True}},
    )  # fmt: skip
    spec, meta = pod["spec"], pod["metadata"]
    assert (spec["schedulerName"], spec["priorityClassName"], spec["runtimeClassName"]) == ("volcano", "low", "nvidia")
    assert (spec["serviceAccountName"], spec["imagePullSecrets"]) == ("me", [{"name": "pull"}])
    assert box(pod)["image"] == "own:2"
    assert spec["activeDeadlineSeconds"] == 190
    assert meta["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert meta["labels"]["kueue.x-k8s.io/pod-group-name"] == records.name_of(KEY)
    assert meta["annotations"]["kueue.x-k8s.io/pod-group-total-count"] == "2"
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in box(pod)["volumeMounts"]}
    assert volumes[mounts["/shared"]["name"]]["nfs"] == {"server": "s", "path": "/p"}
    assert volumes[mounts["/data"]["name"]] == {"name": mounts["/data"]["name"], "hostPath": {"path": "/d"}}
    assert mounts["/data"]["readOnly"] is True
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"] == {"medium": "Memory"}
    assert env(pod)["DUJIANG_OUTPUT_DIR"] == f"/shared/attempts/{KEY.job_id}/2/output"


def test_devices_are_asked_for_as_their_node_needs_it() -> None:
    devices = DeviceRequest(
        limits={"nvidia.com/gpu": "2"}, annotations={"dujiang.io/devices": "nvidia-0,nvidia-1"}, env={"X": "1"},
        claim={"devices": {}}, scheduler="kai-scheduler",
    )  # fmt: skip
    launch = a_launch()
    shares = (DeviceShare("nvidia-0", 0, 1000, 0), DeviceShare("nvidia-1", 1, 500, 0))
    launch = replace(launch, ranks=(replace(launch.ranks[0], devices=shares, disk_bytes=1 << 30),))
    pod = a_pod(launch, devices=devices, scheduler="other")
    assert box(pod)["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert box(pod)["resources"]["limits"]["ephemeral-storage"] == str(1 << 30)
    assert box(pod)["resources"]["claims"] == [{"name": "devices"}]
    assert pod["spec"]["resourceClaims"] == [{"name": "devices", "resourceClaimName": pod["metadata"]["name"]}]
    assert pod["spec"]["schedulerName"] == "kai-scheduler"
    assert pod["metadata"]["annotations"]["dujiang.io/devices"] == "nvidia-0,nvidia-1"
    assert (env(pod)["X"], env(pod)["DUJIANG_GPU_MILLI"], "CUDA_VISIBLE_DEVICES" in env(pod)) == ("1", "1500", False)
    assert env(a_pod(a_launch()))["CUDA_VISIBLE_DEVICES"] == ""


def test_a_pod_tolerates_the_taints_of_its_node_and_those_that_are_set() -> None:
    taints = (
        ("nvidia.com/gpu", "", "NoSchedule"), ("team", "a", "NoExecute"), ("soft", "", "PreferNoSchedule"),
        ("node.kubernetes.io/unschedulable", "", "NoSchedule"),
    )  # fmt: skip
    found = a_pod(a_launch(), *taints, tolerations=("any", "one=x"))["spec"]["tolerations"]
    assert found == [
        {"key": "nvidia.com/gpu", "operator": "Equal", "value": "", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "a", "effect": "NoExecute"},
        {"key": "any", "operator": "Exists"},
        {"key": "one", "operator": "Equal", "value": "x"},
    ]


def test_delegated_placement_prefers_and_stays_within_what_is_shown() -> None:
    selector = "pool=gpu,zone in (a, b),!old,new,kind!=x"
    affinity = a_pod(a_launch(), placement="delegated", node_selector=selector)["spec"]["affinity"]["nodeAffinity"]
    preferred = affinity["preferredDuringSchedulingIgnoredDuringExecution"][0]["preference"]
    assert preferred["matchFields"][0]["values"] == ["n1"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [
        {
            "matchExpressions": [
                {"key": "pool", "operator": "In", "values": ["gpu"]},
                {"key": "zone", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"},
                {"key": "new", "operator": "Exists"},
                {"key": "kind", "operator": "NotIn", "values": ["x"]},
            ]
        }
    ]


@pytest.mark.parametrize(
    ("more", "settings", "word"),
    [
        ({}, {"image": ""}, "image"),
        ({"workdir": "here"}, {}, "absolute"),
        ({"ports": 65}, {}, "ports"),
        ({"run": "a\0b"}, {}, "NUL"),
        ({"env": {"A": "\udc80"}}, {}, "UTF-8"),
        ({"placed": (RankPlacement(1, "n1", 1, 1),)}, {}, "numbered"),
    ],
)
def test_what_can_never_run_is_refused(more: dict[str, Any], settings: dict[str, Any], word: str) -> None:
    plan = a_plan(a_launch(**more), **settings)
    with pytest.raises(EngineRefused, match=word):
        pods.refuse_impossible(plan.launch, plan.nodes, plan.settings)


def test_the_runner_is_told_what_the_launch_says() -> None:
    launch = a_launch(
        2, setup="true", time_limit_s=0.405, grace_s=1.5, run="#!/usr/bin/env python3\n", workdir="/it's here",
        checkpoint=Checkpointing(path="/c", signal=10),
    )  # fmt: skip
    told = runner.files_of(launch, workdir="/it's here", output_dir="/o", go="/g")["launch"]
    assert {
        "dj_setup=text", "dj_text=script", "dj_limit_cs=41", "dj_grace_cs=150", "dj_save=10", "dj_own=''", "dj_go=/g",
        "dj_checkpoint=/c", """dj_workdir='/it'"'"'s here'""",
    } <= set(told.splitlines())  # fmt: skip
