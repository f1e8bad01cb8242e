"""Users of this machine for a test, and a rule by which one of them may be the others."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.slurm.cluster import SEARCHED, MissingSlurm, install

PLATFORM, ALICE, BOB, STRANGER = "djtplat", "djtalice", "djtbob", "djtother"
_RULES = Path("/etc/sudoers.d/dujiang-test")


@contextmanager
def people(conf: Path) -> Iterator[None]:
    """Make the users, each with a group of its own, and a rule of sudo for two of them; all is removed after."""
    install(("sudo", "visudo"), ("sudo",))
    names = (PLATFORM, ALICE, BOB, STRANGER)
    _remove(names)
    try:
        for name in names:
            _run("useradd", "--no-create-home", "--home-dir", "/nonexistent", "--user-group", name)
        programs = ", ".join(str(shutil.which(name, path=SEARCHED)) for name in ("sbatch", "scancel"))
        _RULES.write_text(
            f'Defaults:{PLATFORM},root env_keep += "SLURM_CONF"\n{PLATFORM} ALL=({ALICE},{BOB}) NOPASSWD: {programs}\n'
        )
        _RULES.chmod(0o440)
        _run("visudo", "-c", "-q", "-f", str(_RULES))
        assert conf.exists()
        yield
    finally:
        _remove(names)


def _remove(names: tuple[str, ...]) -> None:
    _RULES.unlink(missing_ok=True)
    for name in names:
        subprocess.run(["userdel", name], capture_output=True, check=False)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingSlurm(f"{words[0]}: {done.stderr.strip()}")
