"""Fake nodes and what happens on them: KWOK lets them beat, and their pods live, without running anything."""

from __future__ import annotations

from pathlib import Path

STAGES = ("node/fast/node-initialize", "node/heartbeat-with-lease/node-heartbeat-with-lease", "pod/fast/pod-ready",
          "pod/general/pod-complete", "pod/fast/pod-delete")  # fmt: skip
MARK = {"kwok.x-k8s.io/node": "fake"}
# A lease lasts this long and is renewed at a quarter of it: 500 nodes then cost 13 writes each second.
LEASE_S = 160
# KWOK itself ends pods of Jobs alone. This ends any pod that says after how long, and with which exit code.
ENDS_AFTER, EXITS_WITH = "dujiang.test/ends-after", "dujiang.test/exits-with"
ENDING = """\
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-ends-as-told
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: '.metadata.deletionTimestamp', operator: 'DoesNotExist'}
    - {key: '.status.phase', operator: 'In', values: ['Running']}
    - {key: '.metadata.annotations["dujiang.test/ends-after"]', operator: 'Exists'}
  delay:
    durationMilliseconds: 0
    durationFrom: {expressionFrom: '.metadata.annotations["dujiang.test/ends-after"]'}
  next:
    statusTemplate: |
      {{ $now := Now }}
      {{ $code := or ( index .metadata.annotations "dujiang.test/exits-with" ) "0" }}
      {{ $started := .status.startTime }}
      containerStatuses:
      {{ range .spec.containers }}
      - image: {{ .image | Quote }}
        name: {{ .name | Quote }}
        ready: false
        restartCount: 0
        started: false
        state:
          terminated:
            exitCode: {{ $code }}
            finishedAt: {{ $now | Quote }}
            reason: {{ if eq $code "0" }}Completed{{ else }}Error{{ end }}
            startedAt: {{ $started | Quote }}
      {{ end }}
      phase: {{ if eq $code "0" }}Succeeded{{ else }}Failed{{ end }}
"""


def write_stages(programs: Path, into: Path) -> list[Path]:
    """Write what KWOK shall do; returns the files."""
    ending = into / "pod-ends-as-told.yaml"
    ending.write_text(ENDING)
    return [*(programs / "stages" / f"{name}.yaml" for name in STAGES), ending]


def node(name: str, gpus: int, *, product: str = "NVIDIA-H100-80GB-HBM3") -> dict[str, object]:
    """Return a fake node as it is created."""
    sizes = {"cpu": "128", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": str(gpus)}
    labels = {
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "nvidia.com/gpu.product": product, "nvidia.com/gpu.count": str(gpus),
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": MARK, "labels": labels},
        "status": {"capacity": sizes, "allocatable": sizes},
    }
