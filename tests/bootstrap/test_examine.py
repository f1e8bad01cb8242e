"""What `dujiang doctor` says of settings and clusters, without any cluster that answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from dujiang.bootstrap.examine import examine
from dujiang.bootstrap.examine_clusters import advised


def test_a_cluster_that_cannot_be_connected_is_told_with_what_to_do_and_nothing_is_made(tmp_path: Path) -> None:
    text = f"[clusters.k.kubernetes]\nkubeconfig = '{tmp_path}/none'\n[clusters.local]\nprice_per_device_hour = 1\n"
    (tmp_path / "dujiang.toml").write_text(text)
    told = examine(tmp_path, {})
    (one,) = told["clusters"]
    assert (one["name"], one["kind"], one["state"]) == ("k", "kubernetes", "unreachable")
    assert "There is no kubeconfig" in one["why"]
    (line,) = (line for line in told["missing"] if line.startswith("cluster k is unreachable"))
    assert line.endswith("set `kubeconfig` to the path of one")  # nothing else is to be tried before that
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dujiang.toml"]


def test_settings_that_cannot_be_are_told_and_the_machine_is_looked_at_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "dujiang.toml").write_text("[clusters.rented]\ncloud = true\n[jobs]\nlost_after = 3\n")
    told = examine(tmp_path, {})
    assert any("lost_after" in line for line in told["settings"]["wrong"])
    assert set(told["settings"]["wrong"]) <= set(told["missing"])
    assert told["machine"]["cpu_milli"] > 0
    (tmp_path / "dujiang.toml").write_text("[clusters.rented]\ncloud = true\n")
    assert "[clusters.rented.slurm]" in examine(tmp_path, {})["missing"][0]


def test_without_settings_there_are_no_clusters(tmp_path: Path) -> None:
    told = examine(tmp_path, {})
    assert (told["clusters"], told["settings"]) == ([], {"file": "none", "wrong": []})


def test_a_home_that_cannot_be_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = examine(tmp_path / "file" / "home", {})
    assert told["home"]["writable"] is False
    assert f"the home folder {tmp_path}/file/home cannot be written to: set DUJIANG_HOME to another" in told["missing"]


@pytest.mark.parametrize(
    ("kind", "why", "begins"),
    [
        ("slurm", "the token in /t has expired: renew it before it does", ""),
        ("slurm", "scontrol cannot be run here (No such file): install Slurm's client commands, or set `commands`", ""),
        ("slurm", "/t is not kept from others: `chmod 600 /t`, as its only reader's", ""),
        ("slurm", "Slurm does not answer: Unable to contact slurm controller", "see that `sinfo`"),
        ("slurm", "`scontrol` did not answer within 10 s", "see that `sinfo`"),
        ("kubernetes", "Nothing answers at https://c (refused): see whether its API server is up.", ""),
        (
            "kubernetes",
            "The certificate is not to be trusted (self-signed): the kubeconfig must name who signed it.",
            "",
        ),
        ("kubernetes", "The connection to the cluster broke off (reset); what was asked for may be done.", "see that"),
    ],
)
def test_what_to_do_is_said_once(kind: str, why: str, begins: str) -> None:
    told = advised(kind, why)
    assert told.startswith(begins)
    assert bool(told) == bool(begins)
