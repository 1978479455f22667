"""Find out how many processors a container may use; libraries see only how many the node has."""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

THREADS: Final = "OMP_NUM_THREADS"  # read by OpenMP, and by torch and onnxruntime through it
CGROUPS: Final = Path("/sys/fs/cgroup")


def available_cpus(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many processors this process may use: at least 1, at most those that it may be scheduled on.

    Args:
        cgroups: Where the kernel shows control groups: version 2 as ``cpu.max``, version 1 as ``cpu.cfs_quota_us``.
        own: The file that names this process's groups.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _folders(cgroups, own) if (quota := _quota(folder)) is not None]
    return max(1, min([count, *(math.floor(quota) for quota in quotas)]))


def limit_threads(environment: MutableMapping[str, str] = os.environ) -> int:
    """Let compute libraries start as many threads as the CPU limit allows; return how many.

    More are throttled: two threads on one CPU are slower than one. A number that is already set stays. Call this before
    torch or numpy is imported.
    """
    environment.setdefault(THREADS, str(available_cpus()))
    return int(environment[THREADS])


def _folders(cgroups: Path, own: Path) -> list[Path]:
    """Return the folders of this process's groups and of those above them, for both versions."""
    folders = [cgroups, cgroups / "cpu", cgroups / "cpu,cpuacct"]
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = cgroups / controllers if controllers else cgroups
        group = path.strip("/")
        folders += [base / group, *(base / parent for parent in Path(group).parents)] if group else []
    return folders


def _quota(folder: Path) -> float | None:
    """Return the CPUs that a group may use; None without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text("utf-8").split()
    except (OSError, ValueError):
        try:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text("utf-8").strip() for name in ("quota", "period"))
        except OSError:
            return None
    if quota in ("max", "-1") or int(period) <= 0:
        return None
    return int(quota) / int(period)
