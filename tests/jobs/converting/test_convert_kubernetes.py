"""Jobs and Pods of Kubernetes: what is kept, what is told, what is refused and where."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang.jobs.spec import Cause, Gpu, JobArray, Kind
from dujiang.jobs.spec.place import Kept, Place
from tests.jobs.converting.building import a_job, a_pod, converted, notes, refused

GIB = 2**30


def limits(**amounts: Any) -> dict[str, Any]:
    return {"resources": {"limits": {"cpu": 1, "memory": "1Gi", **amounts}}}


# -- amounts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "gpu"),
    [
        ({"nvidia.com/gpu": 2}, Gpu(2000, vendor="nvidia")),
        ({"nvidia.com/gpu": "2"}, Gpu(2000, vendor="nvidia")),
        ({"amd.com/gpu": 8}, Gpu(8000, vendor="amd")),
        ({"huawei.com/Ascend910": 8}, Gpu(8000, vendor="huawei", model="910")),
        ({"huawei.com/Ascend910B3": 1}, Gpu(1000, vendor="huawei", model="910B3")),
        ({"huawei.com/Ascend310P": 1}, Gpu(1000, vendor="huawei", model="310P")),
        ({"cambricon.com/mlu": 4}, Gpu(4000, vendor="cambricon")),
        ({"nvidia.com/mig-1g.10gb": 1}, Gpu(142, 10 * GIB, "nvidia")),
        ({"nvidia.com/mig-3g.40gb": 1}, Gpu(428, 40 * GIB, "nvidia")),
        ({"nvidia.com/mig-2g.12gb": 1}, Gpu(500, 12 * GIB, "nvidia")),
        ({"nvidia.com/mig-7g.80gb": 1}, Gpu(1000, vendor="nvidia")),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 30}, Gpu(300, 3000 * 2**20, "nvidia")),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}, Gpu(100, 3000 * 2**20, "nvidia")),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 25}, Gpu(250, vendor="nvidia")),
        ({"nvidia.com/gpu": 2, "nvidia.com/gpumem": 3000}, Gpu(2000, vendor="nvidia")),
        ({"volcano.sh/vgpu-number": 1, "volcano.sh/vgpu-cores": 50}, Gpu(500, vendor="nvidia")),
        ({"nvidia.com/gpu": 0}, None),
    ],
)
def test_devices(amounts: dict[str, Any], gpu: Gpu | None) -> None:
    assert converted(a_pod(container=limits(**amounts))).spec.resources.gpu == gpu


@pytest.mark.parametrize(
    ("amounts", "kept"),
    [
        ({"nvidia.com/mig-1g.10gb": 1}, Kept.ENFORCED),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 30}, Kept.ENFORCED),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}, Kept.MEMORY),
        ({"nvidia.com/gpu": 1}, None),
    ],
)
def test_how_well_a_share_is_kept(amounts: dict[str, Any], kept: Kept | None) -> None:
    assert converted(a_pod(container=limits(**amounts))).spec.placement.isolation == kept


@pytest.mark.parametrize(
    ("annotations", "gpu"),
    [
        ({"gpu-fraction": "0.5"}, Gpu(500)),
        ({"gpu-memory": "2000"}, Gpu(100, 2000 * 2**20)),
    ],
)
def test_a_share_in_the_words_of_kai(annotations: dict[str, str], gpu: Gpu) -> None:
    assert converted(a_pod(metadata={"annotations": annotations})).spec.resources.gpu == gpu


@pytest.mark.parametrize(
    ("cpu", "memory", "milli", "size"),
    [
        ("500m", "512Mi", 500, 512 * 2**20),
        ("2", "2G", 2000, 2 * 10**9),
        (0.1, "1.5Gi", 100, 3 * 2**29),
        ("1e1", "128974848", 10_000, 128_974_848),
        ("100u", "1e9", 10, 10**9),
        ("1500000n", "1Ti", 10, 2**40),
    ],
)
def test_quantities(cpu: Any, memory: str, milli: int, size: int) -> None:
    resources = converted(a_pod(container=limits(cpu=cpu, memory=memory))).spec.resources
    assert (resources.cpu_milli, resources.memory_bytes) == (milli, size)


def test_the_limit_counts_and_what_is_not_said_is_told() -> None:
    asked = {"resources": {"requests": {"cpu": "1", "ephemeral-storage": "5Gi"}, "limits": {"cpu": "4"}}}
    item = converted(a_pod(container=asked))
    assert (item.spec.resources.cpu_milli, item.spec.resources.disk_bytes) == (4000, 5 * GIB)
    assert "The job gets 4 of cpu, the limit." in notes(item, "limits.cpu")
    assert "The job gets 1GiB of memory." in notes(item, "resources")


@pytest.mark.parametrize("text", ["5x", "-1", "1.5.5", "9e999999999", "1" * 50, "Gi", "0x10"])
def test_what_is_no_quantity(text: str) -> None:
    (problem,) = refused(a_pod(container=limits(memory=text)))
    assert "line " in problem
    assert "limits.memory" in problem
    assert "not a quantity" in problem


# -- how many ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "array"),
    [
        ({}, None),
        ({"parallelism": 1, "completions": 1}, None),
        ({"parallelism": 10, "completions": 100, "completionMode": "Indexed"}, JobArray("0-99", 10)),
        ({"completions": 5}, JobArray("0-4", 1)),
        ({"parallelism": 8, "completions": 8}, JobArray("0-7")),
        ({"parallelism": 3}, JobArray("0-2")),
        ({"completions": 1, "completionMode": "Indexed"}, JobArray("0")),
    ],
)
def test_how_many_tasks(spec: dict[str, Any], array: JobArray | None) -> None:
    assert converted(a_job(**spec)).spec.array == array


def test_the_index_of_an_indexed_job_is_that_of_the_array() -> None:
    item = converted(a_job(completions=4, completionMode="Indexed", container={"args": ["$(JOB_COMPLETION_INDEX)"]}))
    assert item.spec.run == 'export JOB_COMPLETION_INDEX="$DUJIANG_ARRAY_INDEX"\ntrue "${JOB_COMPLETION_INDEX}"'


def test_pods_that_share_a_subdomain_are_nodes_of_one_job() -> None:
    text = a_job(parallelism=4, completions=4, completionMode="Indexed", pod={"subdomain": "ring"})
    item = converted(text)
    assert (item.spec.nodes, item.spec.array) == (4, None)
    assert 'export JOB_COMPLETION_INDEX="$RANK"' in item.spec.run
    assert "start together" in notes(item, "completions")


@pytest.mark.parametrize("completions", [0, 10_001, -1])
def test_impossible_numbers_of_tasks(completions: int) -> None:
    (problem,) = refused(a_job(completions=completions))
    assert "spec.completions" in problem


@pytest.mark.parametrize(("spec", "limit"), [({}, 6), ({"backoffLimit": 0}, 0), ({"backoffLimit": 4}, 4)])
def test_retries(spec: dict[str, Any], limit: int) -> None:
    retry = converted(a_job(**spec)).spec.retry
    assert retry.limit == limit
    assert (Cause.USER in retry.on) == (limit > 0)
    assert Cause.TIME_LIMIT not in retry.on


def test_of_two_deadlines_the_shorter_counts() -> None:
    assert converted(a_job(activeDeadlineSeconds=60, pod={"activeDeadlineSeconds": 30})).spec.time_limit_s == 30
    assert converted(a_job(activeDeadlineSeconds=20, pod={"activeDeadlineSeconds": 30})).spec.time_limit_s == 20


@pytest.mark.parametrize(
    ("policy", "ports", "kind", "limit"),
    [("Never", [], Kind.TASK, 0), ("OnFailure", [], Kind.TASK, 1000), (None, [], Kind.TASK, 3),
     ("Always", [{"containerPort": 80}], Kind.SERVICE, 1000)],
)  # fmt: skip
def test_what_a_bare_pod_does_when_it_ends(policy: str | None, ports: list[Any], kind: Kind, limit: int) -> None:
    item = converted(a_pod(restartPolicy=policy, container={"ports": ports}))
    assert (item.spec.kind, item.spec.retry.limit) == (kind, limit)


# -- where -------------------------------------------------------------------------------------------------------------


def test_labels_taints_and_places() -> None:
    own = {"labelSelector": {"matchLabels": {"app": "x"}}}
    affinity = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["fast"]}]}]}},
        "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {**own, "topologyKey": "topology.kubernetes.io/rack"}}]},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {**own, "topologyKey": "kubernetes.io/hostname"}]},
    }  # fmt: skip
    tolerations = [
        {"key": "gpu", "operator": "Exists"}, {"key": "team", "value": "a", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300},
    ]  # fmt: skip
    item = converted(
        a_pod(
            metadata={"labels": {"app": "x"}}, affinity=affinity, tolerations=tolerations, nodeSelector={"zone": "east"}
        )
    )
    placement = item.spec.placement
    assert placement.selector == {"zone": "east", "tier": "fast"}
    assert placement.tolerations == ("gpu", "team=a")
    assert (placement.within, placement.required, placement.spread) == (Place.RACK, False, Place.NODE)
    assert placement.apart == "p"
    assert item.notes == ()


@pytest.mark.parametrize(
    ("label", "value", "model"),
    [
        ("nvidia.com/gpu.product", "NVIDIA-A100-SXM4-80GB", "A100"),
        ("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", "H100"),
        ("nvidia.com/gpu.product", "Tesla-V100-SXM2-32GB", "V100"),
        ("nvidia.com/gpu.product", "NVIDIA-GeForce-RTX-4090", "4090"),
        ("nvidia.com/gpu.product", "NVIDIA-L40S", "L40S"),
        ("cloud.google.com/gke-accelerator", "nvidia-tesla-t4", "T4"),
        ("amd.com/gpu.product-name", "AMD_Instinct_MI300X_OAM", "MI300X"),
    ],
)
def test_a_label_that_names_a_device_is_a_model(label: str, value: str, model: str) -> None:
    item = converted(a_pod(container=limits(**{"nvidia.com/gpu": 1}), nodeSelector={label: value}))
    assert item.spec.resources.gpu is not None
    assert item.spec.resources.gpu.model == model
    assert not item.spec.placement.selector


def test_of_several_models_any_will_do() -> None:
    key = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-H100-PCIe", "NVIDIA-A100-PCIE-40GB"]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [key]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    spec = converted(a_pod(container=limits(**{"nvidia.com/gpu": 4}), affinity=affinity)).spec
    assert [choice.gpu for choice in spec.resources.choices] == [
        Gpu(4000, vendor="nvidia", model="H100"), Gpu(4000, vendor="nvidia", model="A100"),
    ]  # fmt: skip


def test_what_metadata_says() -> None:
    metadata = {
        "generateName": "Big.Run-", "namespace": "vision", "uid": "1", "resourceVersion": "7",
        "labels": {"kueue.x-k8s.io/queue-name": "reports", "kueue.x-k8s.io/priority-class": "urgent", "team": "a"},
        "annotations": {"owner": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}", "text": "y" * 300,
                        "kueue.x-k8s.io/podset-required-topology": "cloud.provider.com/topology-rack"},
    }  # fmt: skip
    item = converted(a_pod(metadata=metadata | {"name": None}))
    spec = item.spec
    assert (spec.name, spec.project, spec.queue, spec.job_class) == ("big-run", "vision", "reports", "core")
    assert spec.labels == {"team": "a", "owner": "x"}
    assert spec.placement.within is Place.RACK
    assert "Not kept: uid, resourceVersion." in notes(item, "metadata")
    assert "up to 255" in notes(item, "annotations.text")


# -- nothing gets lost unsaid ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("serviceAccountName", "trainer"), ("hostNetwork", True), ("securityContext", {"runAsUser": 0}),
        ("schedulerName", "volcano"), ("nodeName", "n1"), ("runtimeClassName", "gvisor"), ("volumes", [{"name": "v"}]),
        ("dnsPolicy", "None"), ("imagePullSecrets", [{"name": "s"}]), ("resourceClaims", []), ("nonsense", 1),
    ],
)  # fmt: skip
def test_each_field_of_a_pod_that_is_not_kept_is_told_with_its_line(field: str, value: Any) -> None:
    item = converted(a_pod(**{field: value}))
    if value == []:
        assert notes(item, field)
        return
    (note,) = [note for note in item.notes if field in note.path]
    assert note.line is not None
    assert note.why


def test_fields_that_say_what_is_so_anyway_are_not_told() -> None:
    plain = {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "securityContext": {},
             "terminationGracePeriodSeconds": 30}  # fmt: skip
    container = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                 "imagePullPolicy": "IfNotPresent"}  # fmt: skip
    assert converted(a_pod(container=container, **plain)).notes == ()


def test_a_misspelt_field_is_told_with_the_nearest() -> None:
    assert 'Did you mean "workingDir"?' in notes(converted(a_pod(container={"workinDir": "/x"})), "workinDir")


def test_other_containers_and_other_images_are_told() -> None:
    text = a_pod(
        containers=[{"name": "a", "image": "x", "command": ["true"]}, {"name": "log", "image": "y"}],
        initContainers=[{"name": "i", "image": "z", "command": ["get"]},
                        {"name": "s", "image": "x", "command": ["w"], "restartPolicy": "Always"}],
    )  # fmt: skip
    item = converted(text)
    assert item.spec.setup == ""
    assert 'The container "log" is left out.' in notes(item, "containers[1]")
    assert "runs another image" in notes(item, "initContainers[0]")
    assert "It runs beside the work" in notes(item, "initContainers[1]")


def test_the_container_that_is_named_for_it_does_the_work() -> None:
    containers = [{"name": "proxy", "image": "x"}, {"name": "work", "image": "y", "command": ["w"]}]
    metadata = {"annotations": {"kubectl.kubernetes.io/default-container": "work"}}
    assert converted(a_pod(containers=containers, metadata=metadata)).spec.run == "w"


def test_init_containers_of_the_same_image_are_setup() -> None:
    init = [{"name": "i", "image": "team/train:1", "command": ["sh", "-c", "make data"],
             "env": [{"name": "D", "value": "a b"}]}]  # fmt: skip
    assert converted(a_pod(initContainers=init)).spec.setup == "(\nexport D='a b'\n/bin/sh -c 'make data'\n)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (a_pod(containers=[]), "at least one container"),
        (a_pod(containers=[{"name": "a", "image": "x"}]), "No command is given"),
        (a_pod(containers="x"), "A list belongs here."),
        (a_pod(containers=["x"]), "A mapping belongs here"),
        (a_job(parallelism="many"), 'The text "many" stands where a whole number belongs.'),
        ("apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\n", 'The field "spec" is missing'),
        ("apiVersion: v1\nkind: Pod\nspec: 5\n", "A mapping belongs here"),
        (
            "echo hi\n",
            "This is neither an object of Kubernetes nor a batch script. A batch script begins with #!/bin/sh",
        ),
        (a_pod(container={"image": "no image!"}), "is not an image's reference"),
        (a_pod(container={"workingDir": "x" * 5000}), "has 1 to 4096"),
        (a_pod(container={"env": [{"name": "A", "value": "x" * 40_000}]}), "has 0 to 32768"),
    ],
)
def test_what_cannot_be_a_job_is_refused_with_its_line(text: str, said: str) -> None:
    problems = refused(text)
    assert any(said in problem for problem in problems), problems
    assert all(problem.startswith("line ") for problem in problems)
