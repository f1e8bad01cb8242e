"""The frameworks that these tests run: Debian's PyTorch and Open MPI, and jax in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

PYTHON: Final = "/usr/bin/python3"
"""The one that Debian's packages are for."""
TORCHRUN_ARGS: Final = ["--redirects", "0:1", "--tee", "0:1"]
"""Without them torchrun 1.13 reads its own defaults wrong on Python 3.11; later ones do not need them."""
JAX_VERSION: Final = "0.10.2"
_PACKAGES: Final = {"torch": "python3-torch", "mpi4py": "python3-mpi4py"}


class Missing(Exception):
    """A framework is not here and cannot be installed; the sentence says why."""


def install(module: str) -> None:
    """Install Debian's package of a Python module, and of Open MPI beside it, where it is missing.

    Raises:
        Missing: not possible here.
    """
    if _has(module):
        return
    wanted = [_PACKAGES[module], *(["openmpi-bin"] if module == "mpi4py" else [])]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"{module} is not installed, and only root with apt can: apt install {' '.join(wanted)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *wanted]):
        _run(["apt-get", "-o", "DPkg::Lock::Timeout=300", *words], env)


def jax_python() -> str:
    """Return the Python of an environment with jax, made in the user's cache where it is not there.

    Raises:
        Missing: it cannot be made.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "dujiang-tests" / f"jax-{JAX_VERSION}-py{sys.version_info[0]}.{sys.version_info[1]}"
    if not (home / "whole").exists():
        uv = str(Path(sys.executable).parent / "uv")
        _run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(home)], dict(os.environ))
        _run([uv, "pip", "install", "-q", "--python", str(home / "bin" / "python"), f"jax=={JAX_VERSION}"], None)
        (home / "whole").touch()
    return str(home / "bin" / "python")


def _has(module: str) -> bool:
    return subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def _run(words: list[str], env: dict[str, str] | None) -> None:
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Missing(f"{' '.join(words[:4])} failed: {said}")
