"""Tables of clusters that cannot be connected: the sentence names the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from dujiang.bootstrap.clusters import connect
from dujiang.bootstrap.home import PlatformHome
from dujiang.kit.clock import SystemClock
from dujiang.kit.settings import SettingsInvalid
from tests.bootstrap.test_settings import loaded


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[clusters.a.slurm]\nwork_dir = '/x'\n[clusters.a.kubernetes]\n", r"\[clusters.a\] is both"),
        ("[clusters.local.slurm]\nwork_dir = '/x'\n", r"\[clusters.local.slurm\]: 'local' is taken"),
        (
            "[clusters.a.slurm]\nwork_dir = '/x'\n[clusters.b.slurm]\nwork_dir = 'y'\n",
            r"\[clusters.b.slurm\]: .*absolute",
        ),
        ("[clusters.rented]\ncloud = true\n", r"add a table \[clusters.rented.slurm\] or \[clusters.rented.kube"),
        ("[clusters.'a/../b'.slurm]\nwork_dir = '/x'\n", "letters and digits"),
        (f"[clusters.{'a' * 64}.slurm]\nwork_dir = '/x'\n", "at most 63"),
    ],
)
def test_a_table_that_cannot_be_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsInvalid, match=says):
        connect(PlatformHome(tmp_path, tmp_path), loaded(tmp_path, text), SystemClock(), b"key")


def test_terms_need_no_engine_of_the_cluster_that_is_there_anyway(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "[clusters.local]\nprice_per_device_hour = 2\n")
    assert list(connect(PlatformHome(tmp_path, tmp_path), settings, SystemClock(), b"key")) == ["local"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("volumes = {'/data' = {nsf = {server = 'a', path = '/b'}}}", "/data: .*'nsf'; did you mean 'nfs'"),
        ("volumes = {'/data' = {persistentvolumeclaim = {}}}", "did you mean 'persistentVolumeClaim'"),
        ("volumes = {'/data' = {readOnly = true}}", "/data must have exactly one kind of volume.* not none"),
        ("volumes = {'/data' = {nfs = {}, emptyDir = {}}}", "/data must have exactly one .* not nfs, emptyDir"),
        ("volumes = {'/data' = {hostPath = '/x'}}", "/data: `hostPath` must be a table"),
        ("volumes = {'data' = {hostPath = {path = '/x'}}}", "absolute path .* not 'data'"),
        ("work_dir = '/w'\nwork_volume = {pvc = {}}", "work_volume: .*'pvc'"),
        ("node_selector = 'pool=gpu,,'", "node_selector: '' cannot be read"),
        ("node_selector = 'pool == g p u'", "node_selector: 'pool == g p u' cannot be read"),
        ("node_selector = 'zone in (a,b), pool=gpu=x'", "'pool=gpu=x' cannot be read"),
    ],
)
def test_what_no_pod_could_have_is_said_when_the_settings_are_read(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsInvalid, match=says) as caught:
        loaded(tmp_path, f"[clusters.a.kubernetes]\n{text}\n")
    assert "clusters.a.kubernetes" in str(caught.value)


def test_what_kubernetes_takes_is_taken(tmp_path: Path) -> None:
    selector = "pool=gpu, tier!=test,ready,!old,zone in (a, b),example.com/x notin (y),empty="
    volumes = "{'/data' = {nfs = {server = 'a', path = '/b'}, readOnly = true}, '/s' = {emptyDir = {}}}"
    found = loaded(tmp_path, f"[clusters.a.kubernetes]\nnode_selector = '{selector}'\nvolumes = {volumes}\n")
    assert found.clusters["a"].kubernetes is not None
    assert found.clusters["a"].kubernetes.node_selector == selector
