"""How many threads a model gets on a machine of several cores.

A small model is quickest on one thread: to share the work of an operator would cost more than the operator. A large one
gets the cores that are there for it, when `workers` gateway processes run `copies` of it each.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

PARALLEL_ABOVE_S = 0.005
"""A model whose full warm batch takes less on one thread stays on one."""
_NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_WORTH = 1.1  # so much quicker must it be on several threads


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share(num_cores: int, *, workers: int, copies: int) -> int:
    """Return how many threads each copy may have, so that all of them together take the cores once."""
    return max(1, num_cores // (max(workers, 1) * max(copies, 1)))


def asked_for(environment: Mapping[str, str]) -> int | None:
    """Return how many threads whoever set the environment wants a model to have, None where it does not say."""
    for name in _NAMES:
        first = environment.get(name, "").partition(",")[0].strip()  # OpenMP takes a list: one for each level
        if first.isdecimal() and int(first) > 0:
            return int(first)
    return None


def variables(threads: int) -> dict[str, str]:
    """Return the environment in which the libraries of a process of one model take so many threads."""
    return {**dict.fromkeys(_NAMES, str(threads)), "OMP_WAIT_POLICY": "PASSIVE"}


def is_worth_trying(batch_s: float, threads: int) -> bool:
    """Tell whether a model that takes `batch_s` seconds for a full warm batch on one thread may gain from more."""
    return threads > 1 and batch_s >= PARALLEL_ABOVE_S


def is_worth_keeping(one_s: float, several_s: float) -> bool:
    """Tell whether several threads are enough quicker than one: what they gain is paid by all other work."""
    return several_s * _WORTH <= one_s
