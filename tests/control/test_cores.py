"""Usable cores, from made-up kernel files.

Control groups of both versions, as hosts and as containers see them.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import pytest

from trio_ticks.control.cores import gil_enabled, quota_cores, usable_cores

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
34 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"""
V1_GROUPS = """\
9:name=systemd:/user
4:cpuset:/elsewhere
3:cpu,cpuacct:/slice/job
0::/slice/job"""


def make(root: Path, *, groups: str, mounts: str, **files: str) -> Path:
    """Write kernel files; *files* are paths below /sys/fs/cgroup, with "__" for "/"."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups + "\n")
    (root / "proc/self/mountinfo").write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts + "\n"
    )
    for name, text in files.items():
        path = (
            root
            / "sys/fs/cgroup"
            / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("150000 100000", 1.5),
        ("50000 100000", 0.5),
        ("max 100000", math.inf),
        ("max", math.inf),
        ("800000", math.inf),
        ("", math.inf),
        ("0 100000", math.inf),
        ("100000 0", math.inf),
        ("nonsense here", math.inf),
    ],
)
def test_version_2(tmp_path: Path, text: str, expected: float) -> None:
    assert (
        quota_cores(make(tmp_path, groups="0::/job", mounts=V2_MOUNT, job__cpu_max=text))
        == expected
    )


def test_the_tightest_quota_on_the_way_up_holds(tmp_path: Path) -> None:
    files = {
        "a__cpu_max": "200000 100000",
        "a__b__cpu_max": "max 100000",
        "a__b__c__cpu_max": "400000 100000",
        "a__x__cpu_max": "1 100000",
    }
    assert quota_cores(make(tmp_path, groups="0::/a/b/c", mounts=V2_MOUNT, **files)) == 2.0


def test_in_a_container_the_root_of_its_namespace_has_the_quota(tmp_path: Path) -> None:
    assert (
        quota_cores(make(tmp_path, groups="0::/", mounts=V2_MOUNT, cpu_max="300000 100000")) == 3.0
    )


def test_version_2_where_the_mount_shows_a_part_of_the_tree(tmp_path: Path) -> None:
    mount = "30 23 0:26 /machine/box /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
    files = {
        "cpu_max": "400000 100000",
        "inner__cpu_max": "100000 100000",
        "machine__cpu_max": "1 100000",
    }
    assert quota_cores(make(tmp_path, groups="0::/machine/box/inner", mounts=mount, **files)) == 1.0


@pytest.mark.parametrize(("quota", "expected"), [("250000", 2.5), ("-1", math.inf), ("", math.inf)])
def test_version_1(tmp_path: Path, quota: str, expected: float) -> None:
    folder = "cpu,cpuacct__slice__job__"
    files = {folder + "cfs_quota_us": quota, folder + "cfs_period_us": "100000"}
    assert quota_cores(make(tmp_path, groups=V1_GROUPS, mounts=V1_MOUNTS, **files)) == expected


def test_version_1_in_a_container_with_the_hosts_paths(tmp_path: Path) -> None:
    files = {"cpu,cpuacct__cfs_quota_us": "50000", "cpu,cpuacct__cfs_period_us": "100000"}
    assert quota_cores(make(tmp_path, groups=V1_GROUPS, mounts=V1_MOUNTS, **files)) == 0.5


def test_without_the_files_there_is_no_quota(tmp_path: Path) -> None:
    assert quota_cores(tmp_path) == math.inf
    assert quota_cores(make(tmp_path, groups="0::/", mounts=V2_MOUNT)) == math.inf


def test_a_path_that_leads_out_is_followed_no_further_than_the_mount(tmp_path: Path) -> None:
    root = make(tmp_path, groups="0::/../../host", mounts=V2_MOUNT, cpu_max="200000 100000")
    (root / "sys/host").mkdir()
    (root / "sys/host/cpu.max").write_text("100000 100000\n")
    assert quota_cores(root) == 2.0


def test_usable_is_the_least_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path, groups="0::/", mounts=V2_MOUNT, cpu_max="300000 100000")
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    assert usable_cores(root) == 3.0
    monkeypatch.setattr(os, "process_cpu_count", lambda: 2, raising=False)
    assert usable_cores(root) == 2.0


def test_without_a_quota_the_scheduler_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 5, raising=False)
    assert usable_cores(tmp_path) == 5
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 4, 7}, raising=False)
    assert usable_cores(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


def test_here() -> None:
    assert 0 < usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_gil(enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: enabled, raising=False)
    assert gil_enabled() is enabled
    monkeypatch.delattr(sys, "_is_gil_enabled")
    assert gil_enabled()
