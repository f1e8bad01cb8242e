"""Which limits a machine offers, what is written to hold a rank to its share, and what is left without groups."""

from __future__ import annotations

import os
import resource
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dujiang.engines.contract import Isolation
from dujiang.engines.local.discovery import Found, Mounts, find_limits, read_mounts
from dujiang.engines.local.inventory import usable_cpu_milli, usable_memory_bytes
from dujiang.engines.local.limits import Group, LimitPlan, Share, choose_cores, limit_soft_and_hard, remove_group

MIB = 1 << 20
SHARE = Share(cpu_milli=500, memory_bytes=64 * MIB, processes=16)
EXISTING = {
    "cgroup-v2": (
        "cgroup.procs", "memory.max", "memory.swap.max", "cpu.max", "pids.max", "memory.events", "pids.events",
        "cpu.stat", "memory.peak",
    ),
    "cgroup-v1": (
        "cgroup.procs", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_period_us", "cpu.cfs_quota_us",
        "pids.max", "memory.oom_control", "pids.events", "cpu.stat", "memory.max_usage_in_bytes",
    ),
}  # fmt: skip


def plan(root: Path, by: str) -> LimitPlan:
    """Return a plan over folders of the test's own, with the files that the kernel would put there."""
    parents = {name: str(root / ("all" if by == "cgroup-v2" else name)) for name in ("memory", "cpu", "pids")}
    for folder in {*parents.values()}:
        group = Path(folder) / "job_a.1.0"
        group.mkdir(parents=True)
        for file in EXISTING[by]:
            (group / file).touch()
    return LimitPlan(by, parents)


def written(group: Group) -> dict[str, str]:
    """Return what stands in the files of a group's folders, `cgroup.procs` apart."""
    files = [file for folder in group.folders for file in Path(folder).iterdir()]
    return {file.name: text for file in files if (text := file.read_text()) and file.name != "cgroup.procs"}


def in_a_child(body: Callable[[], object]) -> str:
    """Return what a function says in a process of its own, whose limits end with it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write_end, repr(body()).encode())
        except BaseException as error:
            os.write(write_end, f"failed: {error!r}".encode())
        os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    said = os.read(read_end, 65536).decode()
    os.close(read_end)
    return said


# What is written


def test_a_share_is_written_in_the_words_of_the_second_version(tmp_path: Path) -> None:
    group = Group(plan(tmp_path, "cgroup-v2"), "job_a.1.0", SHARE)
    group.make()
    assert written(group) == {
        "memory.max": str(64 * MIB), "memory.swap.max": "0", "cpu.max": "50000 100000", "pids.max": "16",
    }  # fmt: skip
    assert len(group.folders) == 1


def test_a_share_is_written_in_the_words_of_the_first(tmp_path: Path) -> None:
    group = Group(plan(tmp_path, "cgroup-v1"), "job_a.1.0", SHARE)
    group.make()
    assert written(group) == {
        "memory.limit_in_bytes": str(64 * MIB), "memory.memsw.limit_in_bytes": str(64 * MIB), "pids.max": "16",
        "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000",
    }  # fmt: skip
    assert len(group.folders) == 3


@pytest.mark.parametrize(("cpu_milli", "quota"), [(1, "1000"), (10, "1000"), (11, "1100"), (64000, "6400000")])
def test_a_quota_is_never_below_what_the_kernel_takes(tmp_path: Path, cpu_milli: int, quota: str) -> None:
    group = Group(plan(tmp_path, "cgroup-v2"), "job_a.1.0", Share(cpu_milli, 0, 0))
    group.make()
    assert written(group)["cpu.max"] == f"{quota} 100000"


@pytest.mark.parametrize("by", EXISTING)
def test_nothing_of_a_share_is_no_limit(tmp_path: Path, by: str) -> None:
    group = Group(plan(tmp_path, by), "job_a.1.0", Share(0, 0, 0))
    group.make()
    assert {name: value for name, value in written(group).items() if name != "memory.swap.max"} == {}


def test_a_machine_that_cannot_forbid_swap_still_limits(tmp_path: Path) -> None:
    offered = plan(tmp_path, "cgroup-v1")
    (tmp_path / "memory/job_a.1.0/memory.memsw.limit_in_bytes").unlink()
    group = Group(offered, "job_a.1.0", SHARE)
    group.make()
    assert written(group)["memory.limit_in_bytes"] == str(64 * MIB)


def test_limits_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"memory\.max"):
        Group(LimitPlan("cgroup-v2", {"memory": str(tmp_path)}), "job_a.1.0", SHARE).make()


def test_the_rank_joins_every_folder(tmp_path: Path) -> None:
    group = Group(plan(tmp_path, "cgroup-v1"), "job_a.1.0", SHARE)
    group.join()
    assert [Path(folder, "cgroup.procs").read_text() for folder in group.folders] == ["0", "0", "0"]


# What is counted


def test_what_the_group_counted_is_told(tmp_path: Path) -> None:
    group = Group(plan(tmp_path, "cgroup-v2"), "job_a.1.0", SHARE)
    assert (group.oom_kills(), group.peak_memory_bytes(), group.counters()) == (0, None, [])
    folder = tmp_path / "all" / "job_a.1.0"
    (folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    (folder / "memory.peak").write_text(f"{64 * MIB}\n")
    (folder / "pids.events").write_text("max 5\n")
    (folder / "cpu.stat").write_text("usage_usec 1\nnr_periods 9\nnr_throttled 7\n")
    (folder / "cgroup.procs").write_text("11\n22\n")
    assert (group.oom_kills(), group.peak_memory_bytes(), group.members()) == (2, 64 * MIB, [11, 22])
    assert group.counters() == [
        f"job_a.1.0: oom_kill 2, peak {64 * MIB} of {64 * MIB} bytes allowed ({folder})",
        "job_a.1.0: 5 forks refused at 16 processes (pids.events)",
        "job_a.1.0: throttled in 7 periods of 100 ms (cpu.stat)",
    ]


def test_the_first_version_counts_in_other_files(tmp_path: Path) -> None:
    group = Group(plan(tmp_path, "cgroup-v1"), "job_a.1.0", SHARE)
    folder = tmp_path / "memory" / "job_a.1.0"
    (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    (folder / "memory.max_usage_in_bytes").write_text("4096\n")
    assert (group.oom_kills(), group.peak_memory_bytes()) == (1, 4096)


def test_nothing_is_counted_without_groups(tmp_path: Path) -> None:
    group = Group(LimitPlan("rlimits"), "job_a.1.0", SHARE)
    group.make()
    assert (group.folders, group.oom_kills(), group.peak_memory_bytes()) == ((), 0, None)
    assert (group.counters(), group.members(), group.remove()) == ([], [], True)


def test_a_group_that_is_to_start_nothing_more(tmp_path: Path) -> None:
    group = Group(plan(tmp_path, "cgroup-v2"), "job_a.1.0", SHARE)
    group.stop_growth()
    assert written(group) == {"pids.max": "0"}


def test_a_folder_in_use_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "group" / "in use").mkdir(parents=True)
    assert not remove_group(str(tmp_path / "group"), patience_s=0.0)
    (tmp_path / "group" / "in use").rmdir()
    assert remove_group(str(tmp_path / "group"))
    assert remove_group(str(tmp_path / "group")), "gone is gone"


# Without groups


@pytest.mark.parametrize(
    ("allowed", "cpu_milli", "count"), [([0, 1, 2, 3], 500, 1), ([0, 1, 2, 3], 1001, 2), ([4, 9], 8000, 2), ([5], 1, 1)]
)
def test_a_share_is_bound_to_as_many_cores_as_it_rounds_up_to(allowed: list[int], cpu_milli: int, count: int) -> None:
    chosen = choose_cores(allowed, cpu_milli, "job_a.1.0")
    assert len(chosen) == count
    assert chosen <= set(allowed)


def test_small_shares_are_spread_over_the_cores() -> None:
    chosen = [choose_cores(range(4), 500, f"job_{nth}.1.0") for nth in range(8)]
    assert {core for cores in chosen for core in cores} == {0, 1, 2, 3}


def test_memory_and_cores_are_held_by_rlimit_and_affinity() -> None:
    def join() -> object:
        Group(LimitPlan("rlimits"), "job_a.1.0", Share(500, 64 << 30, 16)).join()
        return resource.getrlimit(resource.RLIMIT_DATA), len(os.sched_getaffinity(0))

    assert in_a_child(join) == repr(((64 << 30, 64 << 30), 1))


def test_a_lower_limit_stays() -> None:
    def lower() -> object:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 4096))
        limit_soft_and_hard(resource.RLIMIT_CORE, 1 << 30)
        kept = resource.getrlimit(resource.RLIMIT_CORE)
        limit_soft_and_hard(resource.RLIMIT_CORE, 1024)
        return kept, resource.getrlimit(resource.RLIMIT_CORE)

    assert in_a_child(lower) == repr(((4096, 4096), (1024, 1024)))


# What there is


MARK = "00c0ffee"


def offered_v2(root: Path, *, controllers: str = "cpuset cpu io memory pids", handed_down: bool = True) -> Mounts:
    """Return a mount whose files take what is written, as far as plain files can: what they hold is read back too."""
    (root / f"dujiang-{MARK}").mkdir(parents=True)
    (root / "cgroup.controllers").write_text(f"{controllers}\n")
    for folder in (root, root / f"dujiang-{MARK}"):
        (folder / "cgroup.subtree_control").write_text(" " * 18 + (" memory cpu pids" if handed_down else ""))
    return Mounts(str(root), {}, {"": "/"})


def test_switched_off_is_switched_off(tmp_path: Path) -> None:
    found = find_limits(MARK, allow_groups=False, mounts=offered_v2(tmp_path))
    assert (found.plan.by, found.isolation) == ("rlimits", Isolation.COUNTED_ONLY)
    assert found.missing[0] == "limit groups are switched off in the settings"


def test_the_second_version_is_taken_where_it_hands_its_controllers_down(tmp_path: Path) -> None:
    found = find_limits(MARK, mounts=offered_v2(tmp_path))
    assert found == Found(
        LimitPlan("cgroup-v2", dict.fromkeys(("memory", "cpu", "pids"), f"{tmp_path}/dujiang-{MARK}")),
        Isolation.ENFORCED,
    )
    assert found.plan.folders == (f"{tmp_path}/dujiang-{MARK}",)


@pytest.mark.parametrize(
    ("controllers", "handed_down", "says"),
    [("", True, False), ("memory pids", True, False), ("memory cpu pids", False, True)],
)
def test_it_is_not_where_it_lacks_one_or_hands_none_down(
    tmp_path: Path, controllers: str, handed_down: bool, says: bool
) -> None:
    found = find_limits(MARK, mounts=offered_v2(tmp_path, controllers=controllers, handed_down=handed_down))
    assert (found.plan.by, found.isolation) == ("rlimits", Isolation.COUNTED_ONLY)
    assert any("holds other processes" in words for words in found.missing) is says
    assert any("run as root or with a delegated group" in words for words in found.missing)


def offered_v1(root: Path, *controllers: str) -> Mounts:
    """Return mounts of single controllers; the probe's folder has the file by which a limit group is known."""
    for name in controllers:
        probe = root / name / "own" / f"dujiang-{MARK}" / "dujiang-probe"
        probe.mkdir(parents=True)
        (probe / "cgroup.procs").touch()
    return Mounts(None, {name: str(root / name) for name in controllers}, dict.fromkeys(controllers, "/own"))


@pytest.mark.parametrize(
    ("controllers", "by", "isolation", "lacking"),
    [
        (("memory", "cpu", "pids"), "cgroup-v1", Isolation.ENFORCED, []),
        (("memory", "cpu"), "cgroup-v1", Isolation.ENFORCED, ["pids"]),
        (("memory",), "cgroup-v1", Isolation.MEMORY_ONLY, ["cpu", "pids"]),
    ],
)
def test_of_the_first_version_each_controller_counts(
    tmp_path: Path, controllers: tuple[str, ...], by: str, isolation: Isolation, lacking: list[str]
) -> None:
    found = find_limits(MARK, mounts=offered_v1(tmp_path, *controllers))
    parents = {name: f"{tmp_path}/{name}/own/dujiang-{MARK}" for name in controllers}
    assert (found.plan, found.isolation) == (LimitPlan(by, parents), isolation)
    assert [words.split()[1] for words in found.missing] == lacking


def test_without_memory_the_first_version_is_not_taken(tmp_path: Path) -> None:
    assert find_limits(MARK, mounts=offered_v1(tmp_path, "pids")).plan == LimitPlan("rlimits")


def test_a_folder_that_is_no_limit_group_is_not_taken_for_one(tmp_path: Path) -> None:
    mounts = Mounts(None, {"memory": str(tmp_path)}, {})
    assert find_limits(MARK, mounts=mounts).plan == LimitPlan("rlimits")


def test_the_mounts_of_this_machine_are_folders() -> None:
    mounts = read_mounts()
    folders = [*filter(None, [mounts.v2]), *mounts.v1.values()]
    assert all(os.path.isdir(folder) for folder in folders)
    assert all(path.startswith("/") for path in mounts.own.values())


# What work may use


def nested(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_cores_are_those_of_the_tightest_group_above(tmp_path: Path) -> None:
    mine = len(os.sched_getaffinity(0)) * 1000
    second = Mounts(str(tmp_path), {}, {"": "/outer/inner"})
    assert usable_cpu_milli(second) == mine
    nested(tmp_path, {"outer/inner/cpu.max": "max 100000\n", "outer/cpu.max": "50000 100000\n"})
    assert usable_cpu_milli(second) == 500
    nested(tmp_path, {"cpu/own/cpu.cfs_quota_us": "25000\n", "cpu/own/cpu.cfs_period_us": "100000\n"})
    assert usable_cpu_milli(Mounts(None, {"cpu": f"{tmp_path}/cpu"}, {"cpu": "/own"})) == 250
    nested(tmp_path, {"cpu/own/cpu.cfs_quota_us": "-1\n"})
    assert usable_cpu_milli(Mounts(None, {"cpu": f"{tmp_path}/cpu"}, {"cpu": "/own"})) == mine


def test_memory_is_that_of_the_tightest_group_above(tmp_path: Path) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    second = Mounts(str(tmp_path), {}, {"": "/outer/inner"})
    nested(tmp_path, {"outer/inner/memory.max": "max\n"})
    assert usable_memory_bytes(second) == machine
    nested(tmp_path, {"outer/memory.max": f"{64 * MIB}\n"})
    assert usable_memory_bytes(second) == 64 * MIB
    nested(tmp_path, {"memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert usable_memory_bytes(Mounts(None, {"memory": f"{tmp_path}/memory"}, {})) == machine


# For real


@pytest.fixture
def real(tmp_path: Path) -> Iterator[LimitPlan]:
    """The limit groups of this machine, under a mark of the test's own."""
    found = find_limits(f"test-{zlib.crc32(str(tmp_path).encode()):08x}")
    if found.isolation is Isolation.COUNTED_ONLY:
        pytest.skip("this machine has no limit groups that may be written to")
    yield found.plan
    for folder in found.plan.folders:
        assert remove_group(folder), "a test left a group in it"


def test_a_real_group_holds_who_joins_it_and_is_removed_after(real: LimitPlan) -> None:
    group = Group(real, "job_a.1.0", SHARE)
    group.make()
    group.make()
    assert group.members() == []

    def join() -> object:
        group.join()
        return group.members() == [os.getpid()], "job_a.1.0" in Path("/proc/self/cgroup").read_text()

    assert in_a_child(join) == "(True, True)"
    assert (group.oom_kills(), group.remove()) == (0, True)


def test_a_real_group_refuses_forks_above_its_number(real: LimitPlan) -> None:
    if "pids" not in real.parents:
        pytest.skip("this machine has no limit group for processes")
    group = Group(real, "job_a.1.0", Share(0, 0, 1))
    group.make()

    def fork() -> object:
        group.join()
        try:
            if os.fork() == 0:
                os._exit(0)
        except BlockingIOError:
            return "refused"
        return "forked"

    assert in_a_child(fork) == "'refused'"
    assert group.counters() == ["job_a.1.0: 1 forks refused at 1 processes (pids.events)"]
    assert group.remove()
