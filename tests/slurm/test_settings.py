"""What is wrong in the settings of a Slurm cluster is told, and nothing is submitted as root unasked."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dujiang.engines.contract import AttemptKey, EngineRefused, EngineUnavailable, Launch, RankPlacement
from dujiang.engines.slurm.commands import LocalCommands, command_line
from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.kit.clock import ManualClock, SystemClock


def test_the_work_folder_must_be_absolute() -> None:
    with pytest.raises(EngineRefused, match="absolute"):
        SlurmEngine(SlurmSettings(work_dir="here"), clock=SystemClock())


async def test_commands_that_are_not_there_say_what_to_install(tmp_path: Path) -> None:
    settings = SlurmSettings(work_dir=str(tmp_path), commands=str(tmp_path / "none"))
    engine = SlurmEngine(settings, clock=SystemClock())
    with pytest.raises(EngineUnavailable, match="install Slurm's client commands"):
        await engine.inventory()


async def test_a_dead_cluster_does_not_pass_for_an_idle_one(tmp_path: Path) -> None:
    """An answer of a moment ago counts; an older one does not."""
    clock = ManualClock(datetime(2026, 1, 31, tzinfo=UTC))
    settings = SlurmSettings(work_dir=str(tmp_path), commands=str(tmp_path))
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\necho NodeName=n1 CPUTot=1 State=IDLE\n")
    program.chmod(0o700)
    engine = SlurmEngine(settings, clock=clock)
    assert await engine.attempts() == []
    program.unlink()
    clock.advance(5)
    assert await engine.attempts() == []
    clock.advance(6)
    with pytest.raises(EngineUnavailable, match="install Slurm's client commands"):
        await engine.attempts()


async def test_a_command_that_hangs_is_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o700)
    settings = SlurmSettings(work_dir=str(tmp_path), commands=str(tmp_path), command_timeout_s=0.2)
    with pytest.raises(EngineUnavailable, match="did not answer within"):
        await LocalCommands(settings).run("squeue")


async def test_commands_see_no_secret_of_the_platform(tmp_path: Path) -> None:
    program = tmp_path / "sinfo"
    program.write_text("#!/bin/sh\nenv\n")
    program.chmod(0o700)
    settings = SlurmSettings(work_dir=str(tmp_path), commands=str(tmp_path), conf="/etc/s.conf")
    said = await LocalCommands(settings, {"PATH": "/usr/bin:/bin", "DUJIANG_KEY": "secret"}).run("sinfo")
    assert "secret" not in said.out
    assert "SLURM_CONF=/etc/s.conf" in said.out


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
async def test_root_submits_nothing_unasked(tmp_path: Path) -> None:
    engine = SlurmEngine(SlurmSettings(work_dir=str(tmp_path)), clock=SystemClock())
    launch = Launch(AttemptKey("j", 1), "n", "p", "true", (RankPlacement(0, "n1", 500, 0),))
    with pytest.raises(EngineRefused, match="allow_root"):
        await engine.submit(launch)


def test_a_login_node_is_reached_without_a_password() -> None:
    settings = SlurmSettings(work_dir="/w", ssh="me@login", commands="/opt/slurm/bin", conf="/etc/s.conf")
    line = command_line(["squeue", "-o", "%i|%T"], settings)
    assert line[:4] == ["ssh", "-o", "BatchMode=yes", "-o"]
    assert line[-1] == "env SLURM_CONF=/etc/s.conf /opt/slurm/bin/squeue -o '%i|%T'"
