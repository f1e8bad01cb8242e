"""What only images can do wrong, and what must not be left behind or seen, with each runtime."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from dujiang.engines.contract import AttemptKey, End, EngineRefused, Observation
from dujiang.engines.local.procfs import children, is_alive, pids
from dujiang.health.diagnose import diagnose
from dujiang.health.signatures import load_shipped
from dujiang.jobs.diagnosis import AttemptFacts
from tests.containers.harness import ImageHarness
from tests.containers.images import BARE, PYTHON
from tests.containers.registry import NAME, Registry
from tests.containers.runtimes import Store
from tests.contract.harness import WITHIN_S, Waits

pytestmark = [
    pytest.mark.containers,
    pytest.mark.parametrize("store", ["podman", "containerd", "docker"], indirect=True),
]


@pytest.fixture
async def harness(tmp_path: Path, store: Store) -> AsyncIterator[ImageHarness]:
    harness = ImageHarness(tmp_path, store)
    yield harness
    await harness.clean()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a registry that takes every call and answers none."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


async def run(harness: ImageHarness, text: str, **fields: object) -> tuple[Observation, str]:
    launch = harness.launch_text(text, **fields)
    await harness.engine.submit(launch)
    seen = await harness.ended(launch.key)
    return seen, (await harness.printed(launch.key)).decode()


def told(seen: Observation) -> str:
    return " ".join(evidence.line for evidence in seen.evidence)


async def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def command_lines() -> list[bytes]:
    found = []
    for pid in pids():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        except OSError:
            continue
    return found


async def test_the_file_system_and_the_environment_are_the_images(harness: ImageHarness, tmp_path: Path) -> None:
    text = 'cat /etc/made-by; ls /etc/os-release || :; echo "$FROM_THE_IMAGE|$GREETING|$PATH|$HOME|$LD_LIBRARY_PATH"'
    seen, printed = await run(harness, f"{text}; pwd; echo", env={"GREETING": "of the job"})
    assert seen.end is End.EXITED
    lines = printed.splitlines()
    assert lines[0] == "the tests"
    assert "No such file" in lines[1]
    passed = lines[2].split("|")
    assert passed[:3] == ["yes", "of the job", "/bin:/usr/bin"]
    assert passed[4] == ""
    assert lines[3] == seen.workdir


async def test_a_script_of_another_language_and_a_long_text_run_inside(harness: ImageHarness) -> None:
    seen, printed = await run(
        harness, "#!/usr/bin/python3\nimport sys\nprint(open('/etc/made-by').read())\nsys.exit(7)\n"
    )
    assert (seen.exit_code, printed.strip()) == (7, "the tests")
    seen, printed = await run(harness, f"# {'x' * 150_000}\ncat /etc/made-by\nexit 8", job="job_b")
    assert (seen.exit_code, printed.strip()) == (8, "the tests")


async def test_what_the_setup_puts_into_the_image_is_there_for_the_first_rank_alone(harness: ImageHarness) -> None:
    text = "ls /opt/made || :; touch /tmp/mine-$RANK; ls /tmp"
    launch = harness.launch_text(text, ranks=2, setup="mkdir -p /opt/made")
    await harness.engine.submit(launch)
    await harness.ended(launch.key)
    first, second = [(await harness.printed(launch.key, rank=rank)).decode() for rank in (0, 1)]
    assert "mine-0" in first
    assert "No such file" not in first
    assert "mine-0" not in second
    assert "/opt/made: No such file" in second


async def test_secrets_stand_in_no_command_line_and_in_no_file_of_the_runtime(
    harness: ImageHarness, store: Store
) -> None:
    launch = harness.launch(Waits(), secrets={"TOKEN": "very-s3cret-word"})
    await harness.engine.submit(launch)
    await harness.ready(launch.key)
    assert not [line for line in command_lines() if b"very-s3cret-word" in line]
    (name,) = set(store.containers())
    asked = ("containers", "info", name) if store.name == "containerd" else ("inspect", name)
    assert "very-s3cret-word" not in store.run(*asked)
    for file in harness.folder.rglob("*"):
        if file.is_file() and not file.is_fifo():
            assert b"very-s3cret-word" not in file.read_bytes(), file
    harness.release()
    assert (await harness.ended(launch.key)).exit_code == 0


async def test_an_image_that_cannot_be_had_is_a_failed_launch_in_the_runtimes_words(harness: ImageHarness) -> None:
    seen, printed = await run(harness, "true", image="127.0.0.1:1/team/train:v9")
    assert (seen.end, seen.exit_code) == (End.LAUNCH_FAILED, None)
    assert "the image 127.0.0.1:1/team/train:v9 cannot be had: " in told(seen)
    assert "connection refused" in told(seen)
    assert f"fetching the image 127.0.0.1:1/team/train:v9 with {harness.store.name}" in printed
    verdict = diagnose(AttemptFacts(observation=seen, output={0: printed}), load_shipped())
    assert verdict.cause == "ImageUnavailable"


async def test_a_missing_image_is_fetched_once(
    harness: ImageHarness, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = f'unqualified-search-registries = []\n[[registry]]\nlocation = "{registry.address}"\ninsecure = true\n'
    (tmp_path / "registries.conf").write_text(plain)
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    await harness.restart()
    image = f"{registry.address}/{NAME}@{registry.digest}"
    seen, printed = await run(harness, "cat /etc/made-by", image=image)
    assert seen.exit_code == 0, told(seen)
    assert printed.startswith(f"[dujiang] fetching the image {image} with {harness.store.name}\n")
    assert printed.endswith("the tests\n")
    assert (await run(harness, "cat /etc/made-by", image=image, job="job_b"))[1] == "the tests\n"


async def test_an_image_without_a_shell_is_a_failed_launch(harness: ImageHarness) -> None:
    seen, _ = await run(harness, "true", image=BARE)
    assert seen.end is End.LAUNCH_FAILED
    assert "/bin/sh" in told(seen)


async def test_a_stop_and_a_time_limit_end_the_fetching(harness: ImageHarness, silent: int) -> None:
    image = f"127.0.0.1:{silent}/team/train:v9"
    stopped = harness.launch_text("true", image=image, grace_s=0.5)
    await harness.engine.submit(stopped)
    await harness.said(stopped.key, b"fetching the image")
    await harness.engine.cancel(stopped.key)
    assert (await harness.ended(stopped.key)).end is End.STOPPED
    late = harness.launch_text("true", image=image, grace_s=0.5, job="job_b", time_limit_s=1.0)
    await harness.engine.submit(late)
    assert (await harness.ended(late.key)).end is End.TIME_LIMIT


async def test_when_the_supervisor_is_killed_nothing_stays(harness: ImageHarness, store: Store) -> None:
    launch = harness.launch_text("echo began $PPID $$; exec sleep 1000")
    await harness.engine.submit(launch)
    await harness.said(launch.key, b"\n")
    words = (await harness.printed(launch.key)).split()
    supervisor, program = int(words[1]), int(words[2])
    assert program in children(supervisor)
    os.kill(supervisor, signal.SIGKILL)
    seen = await harness.ended(launch.key)
    assert seen.end is End.LOST
    assert not is_alive(program)
    await until(lambda: store.containers() == [])


async def test_when_platform_and_supervisor_are_gone_the_container_ends_by_itself(
    harness: ImageHarness, store: Store
) -> None:
    launch = harness.launch_text("echo began $PPID $$; exec sleep 1000")
    await harness.engine.submit(launch)
    await harness.said(launch.key, b"\n")
    words = (await harness.printed(launch.key)).split()
    hold = os.fsencode(str(harness.folder / "engine/attempts/job_a/1/room/hold-0"))
    assert [line for line in command_lines() if line.startswith(b"/bin/sh\0") and hold in line]
    await harness.engine.close()
    os.kill(int(words[1]), signal.SIGKILL)
    await until(lambda: not [line for line in command_lines() if line.startswith(b"/bin/sh\0") and hold in line])
    await until(lambda: not is_alive(int(words[2])))
    await harness.restart()
    assert (await harness.ended(launch.key)).end is End.LOST
    await until(lambda: store.containers() == [])
    assert list((harness.folder / "engine/rooms").iterdir()) == []


async def test_a_container_that_somebody_removes_takes_nothing_along(harness: ImageHarness, store: Store) -> None:
    launch = harness.launch_text('trap "exit 5" TERM; echo ready; while :; do sleep 0.1; done', grace_s=20.0)
    await harness.engine.submit(launch)
    await harness.ready(launch.key)
    (name,) = set(store.containers())
    if store.name == "containerd":
        store.run("tasks", "rm", "--force", name)
    else:
        store.run("rm", "--force", name)
    await harness.engine.cancel(launch.key)
    seen = await harness.ended(launch.key)
    assert seen.end is End.STOPPED
    assert "could not be removed" not in told(seen)


async def test_without_a_runtime_it_is_refused_with_what_to_install(tmp_path: Path, store: Store) -> None:
    harness = ImageHarness(tmp_path, store, container_runtime="none")
    assert (await harness.engine.capabilities()).images == ""
    with pytest.raises(EngineRefused, match="switched off"):
        await harness.engine.submit(harness.launch_text("true", image=PYTHON))
    assert await harness.engine.attempts() == []
    assert await harness.engine.observe([AttemptKey("job_a", 1)]) == {}
    await harness.clean()
