"""What settings of a cluster cannot be, found when they are read and not when the first Pod is made. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

SOURCES: Final = (
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "configMap", "csi", "downwardAPI", "emptyDir",
    "ephemeral", "fc", "flexVolume", "gcePersistentDisk", "glusterfs", "hostPath", "image", "iscsi", "nfs",
    "persistentVolumeClaim", "portworxVolume", "projected", "quobyte", "rbd", "scaleIO", "secret", "storageos",
    "vsphereVolume",
)  # fmt: skip
"""Of volumes, as Kubernetes 1.28 to 1.34 name them (core/v1, VolumeSource)."""
_NAME: Final = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DOMAIN: Final = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)*"
_KEY: Final = rf"(?:{_DOMAIN}/)?{_NAME}"
_VALUE: Final = rf"(?:{_NAME})?"
_TERM: Final = re.compile(
    rf"!?\s*{_KEY}|{_KEY}\s*(?:==|=|!=)\s*{_VALUE}|{_KEY}\s+(?:in|notin)\s+\(\s*{_VALUE}(?:\s*,\s*{_VALUE})*\s*\)"
)
_COMMA: Final = re.compile(r",(?![^(]*\))")
"""Between terms, not within the brackets of one."""


def check_volume(where: str, volume: Mapping[str, Any]) -> None:
    """Refuse a volume that no Pod could have.

    Raises:
        ValueError: with what to write.
    """
    given = [name for name in volume if name != "readOnly"]
    for name in given:
        if name not in SOURCES:
            known = {one.casefold(): one for one in SOURCES}
            near = get_close_matches(name.casefold(), known, n=1)
            hint = f"; did you mean {known[near[0]]!r}?" if near else ", such as `nfs` or `persistentVolumeClaim`"
            raise ValueError(f"{where}: Kubernetes has no kind of volume that is called {name!r}{hint}")
    if len(given) != 1:
        raise ValueError(
            f"{where} must have exactly one kind of volume, such as `nfs` or `persistentVolumeClaim`,"
            f" not {', '.join(given) or 'none'}"
        )
    if not isinstance(volume[given[0]], Mapping):
        raise ValueError(f"{where}: `{given[0]}` must be a table, such as {{path = ...}}")


def check_paths(paths: Mapping[str, Any]) -> None:
    """Refuse what cannot be the places of volumes in a Pod.

    Raises:
        ValueError: with what to write.
    """
    for path in paths:
        if not path.startswith("/") or path == "/" or ":" in path:
            raise ValueError(f"volumes: each is named by the absolute path of its folder in Pods, not {path!r}")


def check_selector(selector: str) -> None:
    """Refuse what is no label selector.

    Raises:
        ValueError: with what to write.
    """
    for term in _COMMA.split(selector) if selector else ():
        if not _TERM.fullmatch(term.strip()):
            raise ValueError(
                f"node_selector: {term.strip()!r} cannot be read; write terms such as `pool=gpu`, `pool!=test`,"
                " `ready`, `!old` or `zone in (a,b)`, with commas between them"
            )
