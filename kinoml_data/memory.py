"""How much memory this process may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

FALLBACK = 4 << 30
# The limit and the use of a control group, version 2 and version 1, as a container sees its own.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_memory() -> int:
    """The number of bytes that can be allocated without swapping, as far as the operating system tells.

    It is the least of `MemAvailable` in Linux's `/proc/meminfo` and what the control group leaves. Elsewhere it is half
    of the physical memory, or 4 GiB if that is not known either.
    """
    limits = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    for limit, used in CGROUPS:
        with suppress(OSError, ValueError):  # the text is "max" if there is no limit
            limits.append(max(0, int(Path(limit).read_text()) - int(Path(used).read_text())))
    if not limits:
        with suppress(OSError, ValueError, AttributeError):
            limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return min(limits, default=FALLBACK)
