"""As whom a project's jobs run, and whether this work folder can be shared with that user."""

from __future__ import annotations

import os
import pwd
import re
import stat
from dataclasses import dataclass

from dujiang.engines.contract import EngineRefused
from dujiang.engines.slurm.settings import SlurmSettings

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""No `#0` or `-x`, which a command that changes users reads as something else."""
_EVERY_OTHER = "*"
_ACL = "system.posix_acl_access"


@dataclass(frozen=True, slots=True)
class User:
    """A user of Unix."""

    name: str
    uid: int


def user_of(settings: SlurmSettings, project: str) -> User | None:
    """Return as whom a project's jobs run, None where all are the platform's own.

    Raises:
        EngineRefused: no user is set for the project, or none that may be.
    """
    if not settings.run_as:
        return None
    name = settings.run_as.get(project, settings.run_as.get(_EVERY_OTHER))
    if name is None:
        raise EngineRefused(
            f"no user is set on this Slurm cluster for project {project!r}: add it to `run_as`, or `*` for all others"
        )
    if not _NAME.fullmatch(name):
        raise EngineRefused(f"`run_as` names {name!r} for project {project!r}, which is no name of a user")
    try:
        found = pwd.getpwnam(name)
    except KeyError as error:
        raise EngineRefused(
            f"`run_as` names the user {name!r} for project {project!r}, and there is none of that name here"
        ) from error
    if found.pw_uid == 0 and not settings.allow_root:
        raise EngineRefused(f"`run_as` names root ({name!r}) for project {project!r}: name an ordinary user")
    if found.pw_uid == os.geteuid():
        raise EngineRefused(
            f"`run_as` names the platform's own user {name!r} for project {project!r}: its jobs could read and change"
            " all that the platform has; name another"
        )
    return User(name, found.pw_uid)


def own_name(settings: SlurmSettings) -> str:
    """Return the name in Slurm of the user that the platform runs as."""
    login, at, _ = settings.ssh.partition("@")
    return settings.rest_user or (login if at else pwd.getpwuid(os.geteuid()).pw_name)


def names_of(settings: SlurmSettings) -> list[str]:
    """Return the users whose jobs may be ours, the platform's first."""
    found = [own_name(settings)]
    for name in settings.run_as.values():
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue  # told when something is to be submitted as it
        found.append(name)
    return list(dict.fromkeys(found))


def refuse_shared(root: str, runs: str, user: User) -> None:
    """Raise where a user could change the work folder, cannot enter it, or could read other users' output.

    Args:
        root: the work folder.
        runs: the folder in it where users make theirs.
        user: who is to share it.

    Raises:
        EngineRefused: with what to change.
    """
    groups = set(os.getgrouplist(user.name, pwd.getpwnam(user.name).pw_gid))
    top, shared = os.stat(root), os.stat(runs)
    if top.st_uid != os.geteuid() or top.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineRefused(
            f"the work folder {root} must belong to the platform's user and be writable by nobody else, where jobs run"
            " as others: `chmod 711` it"
        )
    if shared.st_gid in groups:
        raise EngineRefused(
            f"user {user.name!r} is in the platform's group {shared.st_gid}, which reads all users' output: run the"
            " platform with a group of its own"
        )
    blocked = _blocked(os.path.realpath(root), user.uid, groups)
    if blocked:
        raise EngineRefused(f"user {user.name!r} cannot enter {blocked}: `chmod a+x` it, so that its jobs can")


def _blocked(path: str, uid: int, groups: set[int]) -> str:
    while not os.path.samefile(path, "/"):
        if not _may_enter(path, uid, groups):
            return path
        path = os.path.dirname(path)
    return ""


def _may_enter(path: str, uid: int, groups: set[int]) -> bool:
    found = os.stat(path)
    if uid == 0 or _ACL in os.listxattr(path):
        return True  # what a list of rights says is not ours to work out
    if found.st_uid == uid:
        return bool(found.st_mode & stat.S_IXUSR)
    return bool(found.st_mode & (stat.S_IXGRP if found.st_gid in groups else stat.S_IXOTH))
