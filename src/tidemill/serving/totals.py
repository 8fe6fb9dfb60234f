"""What all gateway processes behind one port have counted together, on the page of whichever is asked.

Each worker writes its numbers into a file of its own, which has no name and which all of them hold open. What a killed
worker counted stays there, and the one in its place goes on from it, so that a counter never goes back.
"""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

SAVE_EVERY_S = 0.5

_HEAD = struct.Struct("<II")  # length, CRC-32
_NUM_TRIES = 20
_ADDED = ("counter", "histogram")
_LEAST = frozenset({"tidemill_log_writable", "tidemill_route_revision"})
"""Gauges of which the least tells what holds for all; others are added up."""
_OWN = "process_"
"""Begins the names of what is told of each worker by itself."""


class Family(msgspec.Struct, array_like=True, gc=False):
    """A metric with its samples: name, labels and value."""

    name: str
    text: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


class Counted(msgspec.Struct, array_like=True, gc=False):
    """What a worker's file holds: the process that wrote it, how many there were, and the numbers."""

    pid: int
    num_starts: int
    families: list[Family]


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Counted)


class Totals(Collector):
    """Adds up the numbers of all workers.

    Args:
        files: descriptors of the workers' files, in the same order in every worker.
        number: which of them is this worker's.
        source: gives this worker's numbers.
    """

    def __init__(self, files: Sequence[int], number: int, source: Collector) -> None:
        self._files, self._number, self._source = files, number, source
        before = _read(files[number])
        self._num_starts = 1 if before is None else before.num_starts + 1
        self._before = [] if before is None else [f for f in before.families if f.kind in _ADDED and _is_shared(f)]

    async def keep(self) -> None:
        """Write this worker's numbers twice a second, until cancelled."""
        while True:
            self.save()
            await asyncio.sleep(SAVE_EVERY_S)

    def save(self) -> None:
        """Write this worker's numbers."""
        own = [_family(metric) for metric in self._source.collect()]
        counted = Counted(os.getpid(), self._num_starts, _sum([*self._before, *own]))
        payload = _encode(counted)
        os.pwrite(self._files[self._number], _HEAD.pack(len(payload), zlib.crc32(payload)) + payload, 0)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of all workers; what lives with a process bears its number as `worker`."""
        self.save()
        workers = {str(number): counted for number, file in enumerate(self._files) if (counted := _read(file))}
        alive = {number: counted for number, counted in workers.items() if _is_alive(counted.pid)}
        yield GaugeMetricFamily("tidemill_workers", "Gateway processes that run.", value=len(alive))
        starts = CounterMetricFamily("tidemill_worker_starts", "Times a worker was started.", labels=("worker",))
        for number, counted in workers.items():
            starts.add_metric((number,), counted.num_starts)
        yield starts
        shared = [family for number, counted in workers.items() for family in _of(counted, alive=number in alive)]
        own = [_labelled(f, number) for number, c in alive.items() for f in c.families if not _is_shared(f)]
        yield from map(_metric, _sum([*shared, *own]))


def _of(counted: Counted, *, alive: bool) -> Iterator[Family]:
    """Yield what counts for all: of a dead worker what it counted, but not how it stood."""
    return (f for f in counted.families if _is_shared(f) and (alive or f.kind in _ADDED))


def _is_shared(family: Family) -> bool:
    return not family.name.startswith(_OWN)


def _labelled(family: Family, number: str) -> Family:
    samples = [(name, {**labels, "worker": number}, value) for name, labels, value in family.samples]
    return Family(family.name, family.text, family.kind, samples)


def _sum(families: Iterable[Family]) -> list[Family]:
    """Return one family per name, with the samples of equal name and labels made one."""
    found: dict[str, tuple[Family, dict[tuple[str, tuple[tuple[str, str], ...]], float]]] = {}
    for family in families:
        _, values = found.setdefault(family.name, (family, {}))
        for name, labels, value in family.samples:
            key = (name, tuple(labels.items()))
            if key not in values:
                values[key] = value
            else:
                values[key] = min(values[key], value) if family.name in _LEAST else values[key] + value
    return [
        Family(f.name, f.text, f.kind, [(name, dict(labels), value) for (name, labels), value in values.items()])
        for f, values in found.values()
    ]


def _family(metric: Metric) -> Family:
    return Family(metric.name, metric.documentation, metric.type, [(s.name, s.labels, s.value) for s in metric.samples])


def _metric(family: Family) -> Metric:
    metric = Metric(family.name, family.text, family.kind)
    for name, labels, value in family.samples:
        metric.add_sample(name, labels, value)
    return metric


def _read(file: int) -> Counted | None:
    """Return what a worker wrote last, None where it has written nothing: it may be at it, so look again."""
    for _ in range(_NUM_TRIES):
        data = os.pread(file, os.fstat(file).st_size, 0)
        if len(data) < _HEAD.size:
            return None
        length, checksum = _HEAD.unpack_from(data)
        payload = data[_HEAD.size : _HEAD.size + length]
        if len(payload) == length and zlib.crc32(payload) == checksum:
            return _decoder.decode(payload)
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
