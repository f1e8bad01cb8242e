"""What a rank finds in its environment, and what nobody can override."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang.engines.local.environment import DEFAULT_PATH, base_environment, expand, rank_environment

GIB = 1 << 30


def device(name: str = "GPU-a", gpu_milli: int = 1000, memory_bytes: int = 80 * GIB) -> dict[str, Any]:
    return {"name": name, "index": 0, "gpu_milli": gpu_milli, "memory_bytes": memory_bytes}


def environment(
    *devices: dict[str, Any], base: dict[str, str] | None = None, secrets: dict[str, str] | None = None,
    rank: int = 0, ranks: int = 1, cpu_milli: int = 2500, ports: tuple[int, ...] = (), **launch: Any,
) -> dict[str, str]:  # fmt: skip
    """Return the environment of a rank of a small launch."""
    placed = {"rank": rank, "cpu_milli": cpu_milli, "memory_bytes": GIB, "devices": list(devices)}
    record = {
        "key": "job_a.2", "name": "a-job", "project": "a-project", "mark": "00c0ffee", "env": {},
        "ranks": [None] * ranks, "limits": {"by": "cgroup-v2"}, "checkpoint": None, "mps": None, **launch,
    }  # fmt: skip
    return rank_environment(
        base or {},
        record,
        secrets or {},
        placed,
        workdir="/home/a",
        output_dir="/out/a",
        ports=ports,
        master_port=20001,
    )


# What reaches jobs of the platform's own


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8"}),
        ({"PATH": "/opt/bin", "LANG": "zh_CN.UTF-8"}, {"PATH": "/opt/bin", "LANG": "zh_CN.UTF-8"}),
        (
            {"LD_LIBRARY_PATH": "/opt/cuda", "HTTPS_PROXY": "http://proxy"},
            {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", "LD_LIBRARY_PATH": "/opt/cuda", "HTTPS_PROXY": "http://proxy"},
        ),
        ({"DATABASE_PASSWORD": "s3cret", "AWS_SECRET_ACCESS_KEY": "s3cret"}, {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8"}),
    ],
)
def test_only_what_is_listed_is_passed_on(own: dict[str, str], expected: dict[str, str]) -> None:
    assert base_environment(own) == expected


def test_a_site_passes_on_what_it_names() -> None:
    found = base_environment({"SITE": "here", "OTHER": "no"}, ["SITE", "ABSENT"])
    assert (found["SITE"], "OTHER" in found, "ABSENT" in found) == ("here", False, False)


# Who wins


def test_the_users_variables_win_over_what_is_suggested() -> None:
    found = environment(base={"HOME": "/root"}, env={"OMP_NUM_THREADS": "7", "HOME": "/home/a", "TOKEN": "plain"})
    assert (found["OMP_NUM_THREADS"], found["HOME"], found["TOKEN"]) == ("7", "/home/a", "plain")


def test_secrets_win_over_variables() -> None:
    assert environment(env={"TOKEN": "plain"}, secrets={"TOKEN": "s3cret"})["TOKEN"] == "s3cret"


@pytest.mark.parametrize(
    "name",
    [
        "DUJIANG_JOB_ID", "DUJIANG_ATTEMPT", "DUJIANG_ATTEMPT_KEY", "DUJIANG_OUTPUT_DIR", "DUJIANG_GPU_MILLI",
        "CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE", "MASTER_PORT", "PORT",
    ],
)  # fmt: skip
def test_facts_win_over_everything(name: str) -> None:
    honest = environment(ports=(20002,))
    assert environment(ports=(20002,), env={name: "pretended"}, secrets={name: "pretended"}) == honest


# What is stated


def test_an_attempt_knows_itself() -> None:
    found = environment()
    assert {name: found[name] for name in found if name.startswith("DUJIANG_")} == {
        "DUJIANG_JOB_ID": "job_a", "DUJIANG_ATTEMPT": "2", "DUJIANG_JOB_NAME": "a-job",
        "DUJIANG_PROJECT": "a-project", "DUJIANG_ATTEMPT_KEY": "00c0ffee/job_a.2", "DUJIANG_LIMITS": "cgroup-v2",
        "DUJIANG_CPU_MILLI": "2500", "DUJIANG_MEMORY_BYTES": str(GIB), "DUJIANG_GPU_MILLI": "0",
        "DUJIANG_OUTPUT_DIR": "/out/a", "DUJIANG_NODES": "1", "DUJIANG_HOSTS": "127.0.0.1",
    }  # fmt: skip


@pytest.mark.parametrize(("cpu_milli", "threads"), [(100, "1"), (1000, "1"), (1999, "1"), (2500, "2"), (64000, "64")])
def test_as_many_threads_are_suggested_as_there_are_whole_cores(cpu_milli: int, threads: str) -> None:
    assert environment(cpu_milli=cpu_milli)["OMP_NUM_THREADS"] == threads


def test_a_rank_knows_its_place() -> None:
    found = environment(rank=3, ranks=4)
    assert found["DUJIANG_NODES"] == "4"
    names = ("RANK", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [found[name] for name in names] == ["3", "3", "0", "4", "1", "127.0.0.1", "20001"]


def test_checkpoints_are_named_where_there_are_any() -> None:
    assert not {"DUJIANG_CHECKPOINT_DIR", "DUJIANG_RESUME_FROM"} & set(environment())
    first = environment(checkpoint={"path": "/save", "signal": None, "resume_from": None})
    assert (first["DUJIANG_CHECKPOINT_DIR"], "DUJIANG_RESUME_FROM" in first) == ("/save", False)
    later = environment(checkpoint={"path": "/save", "signal": 10, "resume_from": "/save/epoch-3"})
    assert later["DUJIANG_RESUME_FROM"] == "/save/epoch-3"


def test_ports_are_numbered_after_the_first() -> None:
    found = environment(ports=(20002, 20003, 20004))
    assert [found[name] for name in ("PORT", "PORT1", "PORT2")] == ["20002", "20003", "20004"]


# Devices


@pytest.mark.parametrize(
    ("devices", "visible", "gpu_milli"),
    [
        ((), "", "0"),
        ((device("GPU-a"),), "GPU-a", "1000"),
        ((device("GPU-b"), device("GPU-a")), "GPU-b,GPU-a", "2000"),
        ((device("GPU-a", 125, 10 * GIB),), "GPU-a", "125"),
    ],
)
def test_a_rank_sees_its_own_devices(devices: tuple[dict[str, Any], ...], visible: str, gpu_milli: str) -> None:
    found = environment(*devices)
    assert (found["CUDA_VISIBLE_DEVICES"], found["DUJIANG_GPU_MILLI"]) == (visible, gpu_milli)


@pytest.mark.parametrize(
    ("devices", "percentage", "limit"),
    [
        ((device(gpu_milli=500, memory_bytes=40 * GIB),), "50", "0=40960M"),
        ((device(gpu_milli=125, memory_bytes=10 * GIB),), "12", "0=10240M"),
        ((device(gpu_milli=1, memory_bytes=1),), "1", "0=1M"),
        ((device(gpu_milli=500, memory_bytes=0),), "50", None),
        ((device("GPU-b", 500, 2 * GIB), device("GPU-a", 250, GIB)), "25", "0=2048M,1=1024M"),
    ],
)
def test_shares_are_held_by_mps(devices: tuple[dict[str, Any], ...], percentage: str, limit: str | None) -> None:
    found = environment(*devices, mps="/run/mps")
    assert found["CUDA_MPS_PIPE_DIRECTORY"] == "/run/mps"
    assert found["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == percentage
    assert found.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT") == limit


@pytest.mark.parametrize(
    "found", [environment(device(), mps="/run/mps"), environment(device(gpu_milli=500)), environment(mps="/run/mps")]
)
def test_whole_devices_and_machines_without_mps_get_no_limit(found: dict[str, str]) -> None:
    assert not [name for name in found if name.startswith("CUDA_MPS")]


# Paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/plain/path", "/plain/path"),
        ("$DATA/train", "/data/train"),
        ("${DATA}_old", "/data_old"),
        ("$DATA_old", "$DATA_old"),
        ("$UNKNOWN/x", "$UNKNOWN/x"),
        ("${UNKNOWN}", "${UNKNOWN}"),
        ("$EMPTY/x", "/x"),
        ("100%$", "100%$"),
        ("$(rm -rf /)", "$(rm -rf /)"),
    ],
)
def test_known_names_in_paths_are_replaced(text: str, expected: str) -> None:
    assert expand(text, {"DATA": "/data", "EMPTY": ""}) == expected
