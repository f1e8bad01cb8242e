"""What Slurm accounts in: slurmdbd over a MariaDB of its own, both on loopback, beside a cluster of the tests."""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacct", "sacctmgr")
PACKAGES = ("slurmdbd", "mariadb-server")
USER = "mysql"
"""MariaDB refuses to run as root; Debian's package makes this user."""

CONFIG = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""
SLURM = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu,gres/gpu:h100
"""
GRANT = """\
CREATE DATABASE slurm;
CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm.* TO slurm@'127.0.0.1';
"""


def write(folder: Path, dbd_port: int, sql_port: int) -> str:
    """Write what slurmdbd reads, and make an empty database; return what slurm.conf is to say."""
    conf = folder / "slurmdbd.conf"
    conf.touch(mode=0o600)
    conf.write_text(CONFIG.format(folder=folder, dbd_port=dbd_port, sql_port=sql_port, user=getpass.getuser()))
    grant = folder / "grant.sql"
    grant.write_text(GRANT)
    words = ["mariadb-install-db", "--no-defaults", f"--datadir={folder}/sql", "--skip-test-db", *_as_user()]
    subprocess.run(words, check=True, capture_output=True)
    return SLURM.format(folder=folder, dbd_port=dbd_port)


def server(folder: Path, sql_port: int) -> list[str]:
    """Return the command of the database; it makes slurmdbd's user when it starts."""
    return [
        "mariadbd", "--no-defaults", f"--datadir={folder}/sql", f"--port={sql_port}", "--bind-address=127.0.0.1",
        f"--socket={folder}/sql/socket", f"--init-file={folder}/grant.sql", "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=32M", "--innodb-lock-wait-timeout=900", *_as_user(),
    ]  # fmt: skip


def _as_user() -> list[str]:
    return [f"--user={USER}"] if os.geteuid() == 0 else []
