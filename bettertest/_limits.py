"""What reading a pipedef may take of the machine; its time is held by whoever waits for it."""

from __future__ import annotations

import resource

# Far more than a program needs that only declares classes; a thread's stack counts with its 8 MiB.
MEMORY_BYTES = 512 * 1024 * 1024

_RESERVE_BYTES = 16 * 1024 * 1024
_before = resource.getrlimit(resource.RLIMIT_DATA)


def hold_memory() -> bytearray:
    """From now on more memory is a MemoryError. What this returns is to be cleared before anything is done about that."""
    reserve = bytearray(_RESERVE_BYTES)
    limit = MEMORY_BYTES if _before[0] == resource.RLIM_INFINITY else min(MEMORY_BYTES, _before[0])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, _before[1]))
    return reserve


def release_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, _before)
