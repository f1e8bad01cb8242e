"""What the container runtimes are told, and what an image changes of an environment."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.engines.contract import EngineRefused
from dujiang.engines.local import containers
from dujiang.engines.local.containers import Plan, Runtime
from dujiang.engines.local.launching import refuse_impossible
from dujiang.engines.local.runtimes import find_runtime
from dujiang.engines.local.settings import LocalSettings
from tests.engines.local.test_launching import a_launch

PODMAN = Runtime("podman", ("/usr/bin/podman", "--root", "/s"))
DOCKER = Runtime("docker", ("/usr/bin/docker",))
CONTAINERD = Runtime("containerd", ("/usr/bin/ctr", "--address", "/c.sock"))
TWO = (("GPU-aaaa", 0), ("GPU-bbbb", 3))
PLAN = Plan("dujiang-m-j.1.0", "team/train:v1", "/h/hold-0", ("/h", "/data"), TWO, "/h/pid")


def after(words: list[str], flag: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == flag]


@pytest.mark.parametrize(
    ("reference", "full"),
    [
        ("busybox", "hub.example.com/library/busybox:latest"),
        ("busybox:1.36", "hub.example.com/library/busybox:1.36"),
        ("team/train", "hub.example.com/library/team/train:latest"),
        ("localhost/team/train:1", "localhost/team/train:1"),
        ("localhost:5000/train", "localhost:5000/train:latest"),
        ("nvcr.io/nvidia/pytorch:25.04-py3", "nvcr.io/nvidia/pytorch:25.04-py3"),
        ("team/train@sha256:" + "a" * 64, "hub.example.com/library/team/train@sha256:" + "a" * 64),
        ("harbor:8443/x:v1@sha256:" + "a" * 64, "harbor:8443/x:v1@sha256:" + "a" * 64),
    ],
)
def test_containerd_is_given_whole_references(reference: str, full: str) -> None:
    runtime = replace(CONTAINERD, registry="hub.example.com/library")
    assert containers.fetch(runtime, reference)[-3:] == ["images", "pull", full]
    assert containers.is_here(runtime, reference)[-1] == f"name=={full}"


def test_images_that_were_loaded_by_hand_are_found_by_their_names() -> None:
    assert containers.is_here(CONTAINERD, "team/train")[-1] == "name==team/train:latest"


@pytest.mark.parametrize("runtime", [PODMAN, DOCKER, CONTAINERD], ids=lambda one: one.name)
def test_a_container_has_the_machines_network_and_processes_and_waits_at_the_hold(runtime: Runtime) -> None:
    words = containers.make(runtime, PLAN)
    assert words[: len(runtime.words)] == list(runtime.words)
    assert words[-4:] == ["-c", 'read x <"$1"', "room", "/h/hold-0"]
    if runtime is CONTAINERD:
        assert "--net-host" in words
        assert after(words, "--with-ns") == ["pid:/proc/self/ns/pid", "ipc:/proc/self/ns/ipc"]
    else:
        assert [after(words, flag) for flag in ("--network", "--pid", "--ipc")] == [["host"]] * 3
        assert after(words, "--pull") == ["never"]
        assert "--rm" in words
    assert not {"--privileged", "--env", "-e"} & set(words)


def test_each_runtime_is_told_of_devices_in_its_own_words() -> None:
    assert after(containers.make(PODMAN, PLAN, '  - name: "GPU-aaaa"\n  - name: "0"'), "--device") == [
        "nvidia.com/gpu=GPU-aaaa", "nvidia.com/gpu=3",
    ]  # fmt: skip
    assert after(containers.make(DOCKER, PLAN), "--gpus") == ['"device=GPU-aaaa,GPU-bbbb"']
    assert after(containers.make(CONTAINERD, PLAN), "--gpus") == ["0", "3"]
    none = Plan("n", "i", "/h")
    for runtime in (PODMAN, DOCKER, CONTAINERD):
        assert not {"--gpus", "--device"} & set(containers.make(runtime, none))


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r\n"), max_size=30))
def test_any_path_can_be_mounted(name: str) -> None:
    words = containers.make(DOCKER, Plan("n", "i", "/h", (f"/{name}x",)))
    (fields,) = csv.reader(io.StringIO(after(words, "--mount")[0], newline=""))
    assert fields == ["type=bind", f"src=/{name}x", f"dst=/{name}x"]


def test_what_is_mounted_is_there_once_with_parents_first() -> None:
    launch: dict[str, Any] = {
        "workdir": "/home/w",
        "checkpoint": {"path": "/home/w/points/", "resume_from": "/far/epoch-3"},
        "mps": "/run/mps",
    }
    found = containers.mounted(launch, ["/state/a/room", "/state/a/output"], ["/data/x", "/data", "/data-x", "/"])
    assert found == ("/data", "/data-x", "/far/epoch-3", "/home/w", "/run/mps", "/state/a/output", "/state/a/room")
    assert containers.mounted({"workdir": "/w", "checkpoint": None}, [], []) == ("/w",)


def test_of_the_machine_an_image_sees_how_to_reach_the_world_alone() -> None:
    own = {"PATH": "/host", "HOME": "/root", "LD_LIBRARY_PATH": "/host", "HTTPS_PROXY": "http://p", "TOKEN": "s"}
    image = {"PATH": "/image", "HOSTNAME": "abc", "TERM": "xterm", "CUDA_HOME": "/cuda", "container": "podman"}
    assert containers.image_environment(own, image) == {
        "PATH": "/image", "HOME": "/", "HTTPS_PROXY": "http://p", "CUDA_HOME": "/cuda", "container": "podman",
    }  # fmt: skip
    assert containers.image_environment({}, {})["PATH"].endswith("/bin")


def test_a_failed_removal_of_what_is_gone_is_none() -> None:
    for said in (
        "Error: no such container: x",
        'no container with name or ID "x" found',
        "task x not found: not found",
    ):
        assert containers.is_gone(said)
    assert not containers.is_gone("cannot connect to the daemon")
    assert containers.is_going("Error response from daemon: removal of container x is already in progress")


class TestFinding:
    def test_none_is_none_and_said(self) -> None:
        found = find_runtime(LocalSettings(container_runtime="none"), {})
        assert found.runtime is None
        assert "switched off" in found.missing[0]

    def test_a_machine_without_any_is_told_what_to_install(self, tmp_path: Any) -> None:
        found = find_runtime(LocalSettings(), {"PATH": str(tmp_path)})
        assert found.missing == ("no container image can be run: install podman, Docker or containerd",)

    def test_one_that_does_not_answer_is_named_with_its_words(self, tmp_path: Any) -> None:
        program = tmp_path / "docker"
        program.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon'; exit 1\n")
        program.chmod(0o755)
        found = find_runtime(LocalSettings(), {"PATH": str(tmp_path)})
        told = "install podman, Docker or containerd (docker: Cannot connect to the Docker daemon)"
        assert found.missing == (f"no container image can be run: {told}",)
        absent = find_runtime(LocalSettings(container_runtime="podman"), {"PATH": str(tmp_path)})
        assert "podman is not in PATH" in absent.missing[0]

    def test_the_first_that_answers_is_taken_with_its_options(self, tmp_path: Any) -> None:
        for name in ("podman", "docker"):
            program = tmp_path / name
            program.write_text('#!/bin/sh\necho "$@" >> ' + str(tmp_path / "said") + "; echo false\n")
            program.chmod(0o755)
        settings = LocalSettings(container_options=("--root", "/s"))
        found = find_runtime(settings, {"PATH": str(tmp_path), "REGISTRY_AUTH_FILE": "/auth", "OTHER": "no"})
        assert found.runtime == Runtime(
            "podman", (str(tmp_path / "podman"), "--root", "/s"), {"REGISTRY_AUTH_FILE": "/auth"}
        )
        assert (tmp_path / "said").read_text() == "--root /s info --format {{.Host.Security.Rootless}}\n"


def test_an_image_is_refused_where_nothing_runs_it() -> None:
    launch = a_launch(image="busybox")
    node = launch.ranks[0].node
    refuse_impossible(launch, node=node, devices=())
    with pytest.raises(EngineRefused, match="install podman"):
        refuse_impossible(launch, node=node, devices=(), no_images="no image can be run: install podman")
