"""What engines that run real processes promise on top: environment, folders, ports, lineage, nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from dujiang.engines.contract import Checkpointing, End, EngineRefused, Input
from dujiang.engines.outputs import OutputMissing, OutputNotAFile, OutputOutside
from tests.contract.harness import WITHIN_S, Harness

BIG_BYTES = (5 << 20) + 5
LEAVES = f"""\
cd "$DUJIANG_OUTPUT_DIR"
echo model > model.txt; mkdir deep; echo deep > deep/model.txt; : > empty
python3 -c 'import os; f = open("big", "wb"); f.truncate({BIG_BYTES - 5}); f.seek(0, 2); f.write(b"12345")
for name in (b"two\\nlines", b"-rf", b"\\xff", "模型.onnx".encode()): open(name, "w").write("1")
os.mkfifo("pipe"); os.symlink("model.txt", "link"); os.symlink("/etc/passwd", "far"); os.symlink("deep", "near")
os.symlink("loop", "loop")'
"""
REFUSED = {
    "pipe": OutputNotAFile, "deep": OutputNotAFile, "near": OutputNotAFile, "far": OutputOutside, "loop": OutputOutside,
    "../output/model.txt": OutputOutside, "/etc/passwd": OutputOutside,
    "deep/../model.txt": OutputOutside, "": OutputOutside, "gone": OutputMissing, "model.txt/x": OutputMissing,
    "\0": OutputMissing, "\ud800": OutputMissing, "x" * 300: OutputMissing,
}  # fmt: skip
PRINT_ENVIRONMENT = "python3 -c 'import json, os; print(json.dumps(dict(os.environ)))'"


class ProcessContract:
    """Holds for every engine behind which processes are real and files are within reach."""

    async def environment(self, harness: Harness, *, rank: int = 0, **fields: object) -> dict[str, str]:
        launch = harness.launch_text(PRINT_ENVIRONMENT, **fields)
        await harness.engine.submit(launch)
        seen = await harness.ended(launch.key)
        assert seen.exit_code == 0, seen
        printed: dict[str, str] = json.loads(await harness.printed(launch.key, rank=rank))
        return printed

    async def test_a_job_knows_who_and_where_it_is(self, harness: Harness, tmp_path: Path) -> None:
        checkpoint = Checkpointing(path=str(tmp_path / "checkpoints"), resume_from=str(tmp_path / "epoch-3.npz"))
        found = await self.environment(harness, number=2, ranks=2, rank=1, checkpoint=checkpoint, ports=2)
        expected = {
            "DUJIANG_JOB_ID": "job_a",
            "DUJIANG_ATTEMPT": "2",
            "DUJIANG_JOB_NAME": "a-job",
            "DUJIANG_PROJECT": "a-project",
            "DUJIANG_CHECKPOINT_DIR": str(tmp_path / "checkpoints"),
            "DUJIANG_RESUME_FROM": str(tmp_path / "epoch-3.npz"),
            "DUJIANG_CPU_MILLI": "500",
            "DUJIANG_MEMORY_BYTES": str(harness.memory_bytes),
            "DUJIANG_GPU_MILLI": "0",
            "DUJIANG_LIMITS": (await harness.engine.capabilities()).limits_by,
            "CUDA_VISIBLE_DEVICES": "",
            "WORLD_SIZE": "2",
            "RANK": "1",
            "NODE_RANK": "1",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        assert {name: found.get(name) for name in expected} == expected
        assert len({found["MASTER_PORT"], found["PORT"], found["PORT1"]}) == 3
        assert _are_folders(found["DUJIANG_OUTPUT_DIR"], found["DUJIANG_CHECKPOINT_DIR"])

    async def test_the_users_variables_and_secrets_arrive_and_cannot_pretend(self, harness: Harness) -> None:
        env = {"GREETING": "你好 $HOME", "OMP_NUM_THREADS": "7", "DUJIANG_JOB_ID": "job_other", "RANK": "9"}
        found = await self.environment(harness, env=env, secrets={"TOKEN": "s3cret"})
        assert (found["GREETING"], found["TOKEN"], found["OMP_NUM_THREADS"]) == ("你好 $HOME", "s3cret", "7")
        assert (found["DUJIANG_JOB_ID"], found["RANK"]) == ("job_a", "0")

    async def test_the_platforms_own_variables_stay_its_own(self, harness: Harness) -> None:
        os.environ["DUJIANG_PLATFORM_SECRET"] = "for the platform only"
        try:
            await harness.restart()
            assert "DUJIANG_PLATFORM_SECRET" not in await self.environment(harness)
        finally:
            del os.environ["DUJIANG_PLATFORM_SECRET"]

    async def test_attempts_of_one_job_share_its_folder(self, harness: Harness) -> None:
        for number, text in ((1, "echo 41 > left-here"), (2, "exit $(cat left-here)")):
            launch = harness.launch_text(text, number=number)
            await harness.engine.submit(launch)
            seen = await harness.ended(launch.key)
        assert seen.exit_code == 41
        assert (Path(seen.workdir) / "left-here").exists()

    async def test_what_a_job_left_is_read_and_nothing_beyond(self, harness: Harness) -> None:
        """Also once it is forgotten; names may be of any bytes, and what else lies there may be hostile."""
        launch = harness.launch_text(LEAVES)
        await harness.engine.submit(launch)
        assert (await harness.ended(launch.key)).exit_code == 0
        key = launch.key
        await harness.engine.forget(key)
        listed = {one.path: one.size_bytes for one in await harness.engine.outputs(key)}
        odd = ("two\nlines", "-rf", "\udcff", "模型.onnx")
        assert listed == {"model.txt": 6, "big": BIG_BYTES, "deep/model.txt": 5, "empty": 0, **dict.fromkeys(odd, 1)}
        assert [one.path for one in await harness.engine.outputs(key, prefix="model", most=1)] == ["model.txt"]
        assert await harness.left(key, "deep/model.txt") == b"deep\n"
        assert [await harness.left(key, name) for name in odd] == [b"1"] * 4
        assert await harness.left(key, "empty") == b""
        assert [await harness.left(key, name) for name in ("link", "near/model.txt")] == [b"model\n", b"deep\n"]
        assert await harness.left(key, "model.txt", offset=2, most_bytes=3) == b"del"
        pieces = [piece async for piece in harness.engine.output(key, "big", offset=5, most_bytes=BIG_BYTES)]
        assert b"".join(pieces) == b"\0" * (BIG_BYTES - 10) + b"12345"
        assert max(map(len, pieces)) <= 1 << 20  # never held whole
        assert {name: await harness.why_not(key, name) for name in REFUSED} == REFUSED

    async def test_an_output_folder_that_a_job_exchanges_for_a_link_is_not_read(self, harness: Harness) -> None:
        text = f"cd /; rmdir $DUJIANG_OUTPUT_DIR; ln -s {harness.folder} $DUJIANG_OUTPUT_DIR"  # type: ignore[attr-defined]
        launch = harness.launch_text(text)
        (harness.folder / "private").write_text("the platform's")  # type: ignore[attr-defined]
        await harness.engine.submit(launch)
        assert (await harness.ended(launch.key)).exit_code == 0
        assert await harness.why_not(launch.key, "private") is OutputOutside
        with pytest.raises(OutputOutside):
            await harness.engine.outputs(launch.key)

    async def test_the_setup_runs_once_before_every_rank(self, harness: Harness) -> None:
        launch = harness.launch_text("cat made", ranks=2, setup="echo once >> made")
        await harness.engine.submit(launch)
        assert (await harness.ended(launch.key)).exit_code == 0
        assert [await harness.printed(launch.key, rank=rank) for rank in (0, 1)] == [b"once\n", b"once\n"]

    async def test_what_the_program_left_running_is_gone(self, harness: Harness, tmp_path: Path) -> None:
        """The child is in a session of its own, has closed its files, wiped its environment and lost its parent."""
        leave = "import os, sys; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); "
        leave += "open(sys.argv[1], 'w').write(str(os.getpid())); os.closerange(0, 64); "
        leave += "os.execve('/bin/sleep', ['sleep', '1000'], {})"
        note = tmp_path / "pid"
        text = f'python3 -c "{leave}" {note}; until [ -s {note} ]; do sleep 0.01; done; exit 4'
        launch = harness.launch_text(text)
        await harness.engine.submit(launch)
        seen = await harness.ended(launch.key)
        assert (seen.end, seen.exit_code) == (End.EXITED, 4)
        assert not _is_process(note.read_text())
        assert any("left behind" in evidence.line for evidence in seen.evidence)

    async def test_a_missing_folder_is_refused_or_a_failed_launch(self, harness: Harness) -> None:
        """An engine that sees the folder refuses; where only the nodes see it, the launch fails there."""
        launch = harness.launch_text("true", workdir="/no/such/folder")
        said = ""
        try:
            await harness.engine.submit(launch)
        except EngineRefused as refused:
            said = refused.sentence
        if said:
            assert "/no/such/folder" in said
            assert launch.key not in await harness.engine.observe([launch.key])
            return
        seen = await harness.ended(launch.key)
        assert (seen.end, seen.exit_code, seen.signal) == (End.LAUNCH_FAILED, None, None)
        assert any("/no/such/folder" in evidence.line for evidence in seen.evidence)

    async def test_ports_are_free_and_differ_between_attempts(self, harness: Harness) -> None:
        taken: list[int] = []
        for nth in range(4):
            launch = harness.launch_text("echo ready; exec sleep 1000", job=f"job_{nth}", ports=3)
            await harness.engine.submit(launch)
            await harness.ready(launch.key)
            taken += (await harness.engine.observe([launch.key]))[launch.key].ports
        assert len(set(taken)) == 12

    async def test_inputs_are_hashed_after_the_setup(self, harness: Harness, tmp_path: Path) -> None:
        (tmp_path / "tree" / "below").mkdir(parents=True)
        (tmp_path / "tree" / "below" / "b").write_bytes(b"bb")
        (tmp_path / "tree" / "a").write_bytes(b"a")
        wanted = (
            Input("made", "$DUJIANG_OUTPUT_DIR/made.txt"),
            Input("tree", str(tmp_path / "tree")),
            Input("gone", "no-such-file"),
        )
        launch = harness.launch_text("true", setup="printf 123 > $DUJIANG_OUTPUT_DIR/made.txt", inputs=wanted)
        await harness.engine.submit(launch)
        inputs = (await harness.ended(launch.key)).facts["inputs"]
        a, b = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"bb").hexdigest()
        tree = hashlib.sha256(f"a\0{a}\nbelow/b\0{b}\n".encode()).hexdigest()
        assert inputs["made"]["digest"] == hashlib.sha256(b"123").hexdigest()
        assert (inputs["made"]["bytes"], inputs["made"]["method"]) == (3, "sha256")
        assert (inputs["tree"]["digest"], inputs["tree"]["method"]) == (tree, "sha256-tree")
        assert "no-such-file" in inputs["gone"]["error"]

    async def test_interpreter_and_packages_are_written_down(self, harness: Harness) -> None:
        launch = harness.launch_text("true", record_environment=True)
        await harness.engine.submit(launch)
        found = (await harness.ended(launch.key)).facts["environment"]
        assert found["python"].startswith("3.")
        assert isinstance(found["packages"], dict)

    async def test_what_it_used_is_told(self, harness: Harness) -> None:
        launch = harness.launch_text("python3 -c 'x = b\"1\" * 40_000_000; sum(range(3_000_000))'")
        await harness.engine.submit(launch)
        facts = (await harness.ended(launch.key)).facts
        assert facts["peak_memory_bytes"] >= 40_000_000
        assert facts["cpu_seconds"] > 0.01

    async def test_what_runs_is_told_with_the_processor_time_it_takes(self, harness: Harness) -> None:
        told: dict[str, float] = {}
        for job, text in (("job_busy", "while :; do :; done"), ("job_waits", "sleep 600")):
            launch = harness.launch_text(f"echo ready; {text}", job=job)
            await harness.engine.submit(launch)
            await harness.ready(launch.key)
            assert (await harness.engine.usage([launch.key]))[launch.key].cpu is None  # since when is not known yet
            deadline = harness.clock.monotonic_s() + WITHIN_S
            while job not in told:
                assert harness.clock.monotonic_s() < deadline
                await harness.engine.changed(0.3)
                if (used := (await harness.engine.usage([launch.key]))[launch.key].cpu) is not None:
                    told[job] = used
            await harness.engine.cancel(launch.key, grace_s=0.0)
            await harness.ended(launch.key)
        assert 0.1 < told["job_busy"] <= 1.0  # of half a core, on a machine that may be busy with other things
        assert told["job_waits"] < 0.1


def _are_folders(*paths: str) -> bool:
    return all(os.path.isdir(path) for path in paths)


def _is_process(number: str) -> bool:
    return os.path.exists(f"/proc/{number}")
