"""The tree of settings where a table has names of its own."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from dujiang.bootstrap.settings import Settings
from dujiang.kit.settings import SettingsInvalid, load


def loaded(folder: Path, text: str) -> Settings:
    """Return the settings of a file."""
    file = folder / "dujiang.toml"
    file.write_text(text)
    return load(Settings, file=file, environ={}, flags={})


def test_each_cluster_has_terms_of_its_own(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        "[clusters.spot]\nprice_per_device_hour = 1.25\ncloud = true\ninterruptions_per_day = 2\n[clusters.own]\n",
    ).clusters
    assert (found["spot"].price_per_device_hour, found["spot"].cloud, found["spot"].interruptions_per_day) == (
        Decimal("1.25"), True, 2.0,
    )  # fmt: skip
    assert (found["own"].price_per_device_hour, found["own"].cloud) == (Decimal(0), False)


def test_the_local_node_has_labels(tmp_path: Path) -> None:
    assert loaded(tmp_path, '[local]\nlabels = { "dujiang.io/rack" = "r7" }\n').local.labels == {
        "dujiang.io/rack": "r7"
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[clusters.own]\nclouds = true", 'clusters.own.clouds: there is no such setting. Did you mean "cloud"?'),
        ("[clusters.own]\nx = true", "price_per_device_hour, cloud, interruptions_per_day, fabric, slurm, kubernetes."),
        ("[clusters.own]\nprice_per_device_hour = -1", "clusters.own.price_per_device_hour = -1 should be greater"),
        ("[clusters.own]\nprice_per_device_hour = nan", "clusters.own.price_per_device_hour = NaN should be a finite"),
        ("[clusters.own.kubernetes]\nkubeconfg = 'x'", 'there is no such setting. Did you mean "kubeconfig"?'),
        (
            "[clusters.own.slurm]\nwork_dir = '/x'\nx = 1",
            "clusters.own.slurm.x: there is no such setting. There are work",
        ),
        (
            "[clusters.own.slurm]\npartition = 'x'",
            "clusters.own.slurm.work_dir must be set: write work_dir = ... under",
        ),
        (
            "[clusters.own]\nslurm = 'x'",
            "clusters.own.slurm is a group of settings; write a table [clusters.own.slurm].",
        ),
        (
            "[clusters.own.kubernetes]\nwork_dir = '/x'",
            "clusters.own.kubernetes: work_dir and work_volume belong together",
        ),
        ("[clusters.own.kubernetes]\nwatch_s = -4", "clusters.own.kubernetes: watch_s must be above 0."),
        (
            "[clusters.own.slurm]\nwork_dir = '/x'\npoll_s = 0\ncommand_timeout_s = -1",
            "clusters.own.slurm: poll_s, command_timeout_s must be above 0.",
        ),
        ("[clusters]\nown = 3", "clusters.own is a group of settings; write a table [clusters.own] with"),
        ("[clusters.own]\ncloud = 'so so'", 'clusters.own.cloud = "so so" should be a valid boolean'),
    ],
)
def test_terms_that_mean_nothing_are_told_with_their_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        loaded(tmp_path, text)
    assert says in caught.value.problems[0]
    assert "dujiang.toml" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[loops]\nstart_s = 0\nlease_s = 0.0", "loops: start_s, lease_s must be above 0."),
        ("[jobs]\nlost_after_s = -5", "jobs.lost_after_s: -5 is below 0; neither a time nor a size is."),
        ("[billing]\ncurrency = 'RMB '", "billing: currency is three capital letters (ISO 4217), such as CNY."),
        ("[database]\nurl = 'mysql://u:hush@h/n'", "database: url is written postgresql://USER:PASSWORD@HOST/NAME;"),
    ],
)
def test_what_the_platform_could_not_live_with_stops_the_start(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        loaded(tmp_path, text)
    assert says in caught.value.problems[0]
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://h/n", "postgres://h/n", "postgresql+asyncpg://h/n"])
def test_databases_that_are_spoken_to(tmp_path: Path, url: str) -> None:
    assert loaded(tmp_path, f"[database]\nurl = '{url}'").database.url == url
