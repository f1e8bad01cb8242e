"""What joins the nodes of a cluster, and what communication libraries are told of it: pure.

Only what their own documentation says is set (docs/distributed.md names the pages), and only what a site has stated:
left alone, NCCL, Gloo, UCX and Open MPI choose by themselves, and mostly well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

_LISTED: Final = re.compile(r"[A-Za-z0-9_.:-]+(,[A-Za-z0-9_.:-]+)*")
_LOOPBACK: Final = "lo"


@dataclass(frozen=True, slots=True)
class Fabric:
    """What joins the nodes of a cluster, `[clusters.NAME.fabric]`; jobs of several nodes find it in their environment.

    A job's own variables count more.
    """

    kind: Literal["ib", "roce", "tcp"] | None = None
    """InfiniBand, RoCE, or plain TCP, where RDMA devices are passed over; none leaves it to the libraries."""
    interface: str = ""
    """Network interfaces for TCP and for finding one another, such as `eth0` or `ib0,ib1`; empty lets them choose."""
    devices: str = ""
    """RDMA devices, such as `mlx5_0,mlx5_1`; empty takes all."""
    gid_index: int | None = None
    """Of RoCE: which entry of the devices' GID tables is the RoCE v2 address; none lets the libraries find it."""

    def __post_init__(self) -> None:
        for name, text in (("interface", self.interface), ("devices", self.devices)):
            if text and not _LISTED.fullmatch(text):
                raise ValueError(f"{name} is a list of names such as eth0,eth1, not {text!r}")
        if self.devices and self.kind not in ("ib", "roce"):
            raise ValueError("devices are of kind ib or roce: write kind too")
        if self.gid_index is not None and (self.kind != "roce" or not 0 <= self.gid_index <= 255):
            raise ValueError("gid_index is of kind roce, 0 to 255")


def between_machines(fabric: Fabric, *, has_devices: bool) -> dict[str, str]:
    """Return what the libraries are told where ranks are on several machines.

    Args:
        fabric: of the cluster.
        has_devices: whether the job holds accelerators: their makers have transports of their own, which are kept.
    """
    env: dict[str, str] = {}
    if fabric.interface:
        env |= _sockets(fabric.interface) | _open_mpi(fabric.interface)
        env["PRTE_MCA_prte_if_include"] = fabric.interface
    if fabric.kind == "tcp":
        transports = "^rc,ud,dc,ud:aux" if has_devices else "tcp,sm,self"
        env |= {"NCCL_IB_DISABLE": "1", "UCX_TLS": transports, "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "^openib"}
    if fabric.devices:
        names = fabric.devices.split(",")
        ports = ",".join(name if ":" in name else f"{name}:1" for name in names)
        env |= {"NCCL_IB_HCA": f"={fabric.devices}", "UCX_NET_DEVICES": ports}
    if fabric.gid_index is not None:
        env |= {"NCCL_IB_GID_INDEX": str(fabric.gid_index), "UCX_IB_GID_INDEX": str(fabric.gid_index)}
    return env


def on_one_machine() -> dict[str, str]:
    """Return what the libraries are told where all is on one machine: nothing has to leave it."""
    return _sockets(_LOOPBACK)


def daemons_on_one_machine() -> dict[str, str]:
    """Return what keeps Open MPI's daemons and their processes on the one machine that all are on."""
    return _open_mpi(_LOOPBACK)


def _sockets(names: str) -> dict[str, str]:
    return {"NCCL_SOCKET_IFNAME": f"={names}", "GLOO_SOCKET_IFNAME": names}


def _open_mpi(names: str) -> dict[str, str]:
    return {"OMPI_MCA_btl_tcp_if_include": names, "OMPI_MCA_oob_tcp_if_include": names}
