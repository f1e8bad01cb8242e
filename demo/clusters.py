"""A real Slurm and a real Kubernetes on this machine, those of the tests, and the settings that name them.

Their programs carry the demo's mark in their environment: a run that was cut off leaves some of them behind, and the
next one ends them (`home`). Their folder has a short path outside the demo's, as the sockets in it need.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.kubernetes import cluster as kubernetes
from tests.kubernetes import images, parts
from tests.kubernetes.machine import MissingMachine
from tests.slurm import cluster as slurm

from home import MARK, CannotStart, DemoHome
from screen import Screen
from steps import ROOT

LOCAL, SLURM, KUBERNETES = "local", "hpc", "cloud"
IMAGE = "dujiang.test/training:1"
TELL_EVERY_S = 30.0
SETTINGS = """\
[jobs]
checkpoint_root = "{shared}/checkpoints"

[clusters.{slurm}.slurm]
work_dir = "{shared}/slurm"
conf = "{conf}"
allow_root = true
poll_s = 0.5
facts_lag_s = 2.0

[clusters.{kubernetes}.kubernetes]
kubeconfig = "{kubeconfig}"
image = "{image}"
work_dir = "{shared}/kubernetes"
work_volume = {{ hostPath = {{ path = "{shared}/kubernetes" }} }}
watch_s = 0.2

[clusters.{kubernetes}.kubernetes.volumes]
{volumes}
"""


class Clusters:
    """Both, once they were started."""

    def __init__(self, screen: Screen, home: DemoHome) -> None:
        """Start nothing yet."""
        self._screen, self._home, self._running = screen, home, ExitStack()
        self._shared = home.path / "shared"
        told = hashlib.sha256(os.fsencode(home.path)).hexdigest()[:8]
        self._scratch = Path(tempfile.gettempdir()) / f"dujiang-demo-{told}"

    def prepare(self) -> None:
        """Make the folders, and what the programs of the clusters find in their environment.

        Raises:
            CannotStart: this account may not run them.
        """
        if os.geteuid() != 0:
            raise CannotStart("Slurm and Kubernetes are started here by root alone; run it as root, or `make demo`.")
        if self._scratch.exists():
            shutil.rmtree(self._scratch)
        self._scratch.mkdir()
        for name in ("checkpoints", "slurm", "kubernetes"):
            (self._shared / name).mkdir(parents=True)
        os.environ[MARK] = str(self._home.path)
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"

    def start_slurm(self) -> str:
        """Install Slurm where it is missing, and start it; return what there is.

        Raises:
            CannotStart: not possible here.
        """
        with self._told("Slurm's packages"):
            slurm.install()
        self._slurm = self._running.enter_context(slurm.Cluster(self._scratch / "s"))
        return f"{self._slurm.client('sinfo', '--version').strip()}, {len(self._slurm.nodes)} nodes"

    def start_kubernetes(self) -> str:
        """Build Kubernetes where it is missing, and start it; return what there is.

        Raises:
            CannotStart: not possible here.
        """
        if not parts.place().exists():
            self._screen.say("Kubernetes is compiled first, which takes some ten minutes, once for each machine")
        with self._told("building and starting"):
            cluster = self._running.enter_context(kubernetes.Cluster(self._scratch / "k"))
            cluster.import_image(images.host_python(IMAGE, path=f"{Path(sys.executable).parent}:{images.PATH}"))
        self._kubernetes = cluster
        version = cluster.request("GET", "/version")["gitVersion"]
        return f"Kubernetes {version}, {len(cluster.nodes)} nodes with a kubelet and a containerd each"

    def write_settings(self) -> None:
        """Tell the platform of both."""
        volumes = [f'"{path}" = {{ hostPath = {{ path = "{path}" }}, readOnly = true }}' for path in self._read()]
        kept = f"{self._shared}/checkpoints"
        volumes.append(f'"{kept}" = {{ hostPath = {{ path = "{kept}" }} }}')
        (self._home.path / "dujiang.toml").write_text(
            SETTINGS.format(
                shared=self._shared, slurm=SLURM, conf=self._slurm.conf, kubernetes=KUBERNETES,
                kubeconfig=self._kubernetes.kubeconfig(), image=IMAGE, volumes="\n".join(volumes),
            )
        )  # fmt: skip

    def _read(self) -> list[Path]:
        """Return what the image needs of this machine: its Python, and the example."""
        return images.host_folders(ROOT / "examples")

    def stop(self) -> None:
        """End both, and remove their files."""
        self._running.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Say from time to time that something long goes on; turn what is missing into a sentence."""
        over, began = threading.Event(), time.monotonic()

        def tell() -> None:
            while not over.wait(TELL_EVERY_S):
                self._screen.say(f"still at it: {what}, {time.monotonic() - began:.0f} s so far")

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        except (slurm.MissingSlurm, MissingMachine, parts.MissingParts) as error:
            raise CannotStart(f"{error}.") from error
        finally:
            over.set()
            teller.join()
