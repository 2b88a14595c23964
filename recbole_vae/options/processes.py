"""The group of processes that ``torchrun`` has started, from the variables by which it tells them of each other."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from recbole_vae.errors import ConfigError

_OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(seconds=5)


def torchrun_group() -> dict[str, Any] | None:
    """Return RecBole's options for this process of a group; None without torchrun, or if this is its only process."""
    given = {name: os.environ.get(name, "") for name in _OF_TORCHRUN}
    if not all(given.values()) or given["WORLD_SIZE"] == "1":
        return None
    try:
        rank, world, local_rank, here = (int(given[name]) for name in _OF_TORCHRUN[:4])
    except ValueError:
        raise ConfigError(
            f"{', '.join(_OF_TORCHRUN[:4])} (environment variables of torchrun) must be whole numbers, not "
            f"{', '.join(given[name] for name in _OF_TORCHRUN[:4])}. Start the processes by torchrun, or unset them."
        ) from None
    return {
        "local_rank": local_rank,
        "offset": rank - local_rank,
        "world_size": world,
        "nproc": here,
        "ip": given["MASTER_ADDR"],
        "port": given["MASTER_PORT"],
    }


def alone() -> str:
    """Say so if some variables of torchrun, but not all, tell of several processes: this one trains alone. Else ""."""
    world = os.environ.get("WORLD_SIZE", "")
    missing = [name for name in _OF_TORCHRUN if not os.environ.get(name)]
    if not missing or not world.isdecimal() or int(world) < 2:
        return ""
    return (
        f"WORLD_SIZE is {world}, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: this process trains "
        "alone. torchrun sets them all."
    )


def is_first() -> bool:
    """Return whether this process is the one that prints and writes results."""
    group = torchrun_group()
    return group is None or group["local_rank"] + group["offset"] == 0


def reports_the_end() -> bool:
    """Return whether this process says why the run failed: of several, the first that asks."""
    group = torchrun_group()
    if group is None:
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = TCPStore(group["ip"], int(group["port"]), is_master=False, wait_for_workers=False, timeout=_PATIENCE)
        return bool(store.add(f"recbole_vae/reported/{attempt}", 1) == 1)
    except RuntimeError:  # the machine that knew is gone
        return bool(group["local_rank"] == 0)
