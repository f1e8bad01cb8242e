"""What attempts left: read where the platform sees the folder that Pods share, refused elsewhere.

Every Pod may write into all of `work_dir`, so nothing below it is trusted, and no link that leads out
of an attempt's folder is followed.
"""

from __future__ import annotations

import os

from dujiang.engines.contract import AttemptKey
from dujiang.engines.folders import OutputFolders
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.outputs import OutputUnreachable
from dujiang.kit.beneath import Place


class Results(OutputFolders):
    """The part of the engine that reads output folders."""

    _settings: KubernetesSettings

    def output_place(self, key: AttemptKey) -> Place:
        """Return where the output folder of an attempt is; which one that is follows from its key alone."""
        root = self._settings.work_dir
        if not root:
            raise OutputUnreachable(
                "Output folders on this Kubernetes cluster go with their Pods: set `work_dir` and `work_volume` to a"
                " folder that Pods share, and mount it under the same path where the platform runs."
            )
        if not os.path.isdir(root):
            raise OutputUnreachable(
                "The platform does not see the folder that Pods share on this Kubernetes cluster: mount its"
                " `work_volume` where the platform runs, too, under the path of `work_dir`."
            )
        return Place(os.path.realpath(root), ("attempts", key.job_id, str(key.number), "output"))
