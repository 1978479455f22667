"""A step starts as many threads as its container's CPU limit allows, under both versions of control groups."""

import os
from pathlib import Path

import pytest

from emoverse.cpus import THREADS, available_cpus, limit_threads

CPUS = len(os.sched_getaffinity(0))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return root


@pytest.mark.parametrize(
    ("files", "groups", "expected"),
    [
        ({}, "", CPUS),
        ({"cpu.max": "max 100000\n"}, "0::/\n", CPUS),
        ({"cpu.max": "100000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1),
        ({"pod/cpu.max": "100000 100000\n", "pod/box/cpu.max": "max 100000\n"}, "0::/pod/box\n", 1),
        ({"cpu.max": "9900000 100000\n"}, "0::/\n", CPUS),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:memory:/\n3:cpu:/\n", 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "3:cpu:/\n", CPUS),
        ({"cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
         "3:cpu,cpuacct:/a\n", 1),
        ({"cpu.max": "broken\n"}, "0::/\n", CPUS),
    ],
)  # fmt: skip
def test_the_limit_of_the_container_is_read(tmp_path: Path, files: dict[str, str], groups: str, expected: int) -> None:
    (tmp_path / "own").write_text(groups, "utf-8")
    assert available_cpus(write(tmp_path / "cgroup", files), tmp_path / "own") == expected


def test_a_number_that_is_set_stays_and_none_becomes_the_limit() -> None:
    environment = {THREADS: "7"}
    assert limit_threads(environment) == 7
    environment = {}
    assert limit_threads(environment) == available_cpus()
    assert environment[THREADS] == str(available_cpus())
