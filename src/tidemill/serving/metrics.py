"""What a gateway counts, and the Prometheus page that shows it.

Counters are plain numbers in dictionaries, changed from the event loop alone: a `prometheus_client` counter takes a
lock for each increment, which is too dear for every request.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tidemill.serving.totals import Totals

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_Labels = tuple[str, ...]


class Histogram:
    """Counts of values by upper bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, num: int = 1) -> None:
        """Count a value `num` times."""
        self.counts[bisect_left(self.bounds, value)] += num
        self.total += value * num

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound, the last one infinite."""
        out, seen = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            seen += count
            out.append((bound, float(seen)))
        return out


class Metrics(Collector):
    """The numbers of one gateway process. Labels are strings; none comes from a request's content."""

    def __init__(self) -> None:
        self.requests: dict[_Labels, int] = defaultdict(int)  # project, version, status
        self.fallbacks: dict[_Labels, int] = defaultdict(int)  # project, assigned version, reason
        self.feedback: dict[_Labels, int] = defaultdict(int)  # project, kind
        self.shadows_dropped: dict[_Labels, int] = defaultdict(int)  # project, version
        self.outliers: dict[_Labels, int] = defaultdict(int)  # project, version, input
        self.cache_hits: dict[_Labels, int] = defaultdict(int)  # project, version
        self.cache_bytes: dict[_Labels, int] = {}  # project
        self.load_failures: dict[_Labels, int] = defaultdict(int)  # project, version
        self.route_revision: dict[_Labels, int] = {}  # project
        self.log_failures: dict[_Labels, int] = {(): 0}
        self.log_writable: dict[_Labels, int] = {(): 1}
        self.unlogged: dict[_Labels, int] = defaultdict(int)  # project
        self.poll_failures: dict[_Labels, int] = {(): 0}
        self.waiting: dict[_Labels, int] = {(): 0}
        self.latency: dict[_Labels, Histogram] = defaultdict(lambda: Histogram(_SECONDS))  # project, version
        self.predict: dict[_Labels, Histogram] = defaultdict(lambda: Histogram(_SECONDS))  # project, version
        self.log_write = Histogram(_SECONDS)
        self.batch_size: dict[_Labels, Histogram] = defaultdict(lambda: Histogram(_ROWS))  # project, version
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        self._shown: CollectorRegistry = self._registry

    def share(self, files: Sequence[int], number: int) -> Totals:
        """Show from now on what all workers counted (see `Totals`); return what keeps the others informed."""
        totals = Totals(files, number, self._registry)
        self._shown = CollectorRegistry()
        self._shown.register(totals)
        return totals

    def count_batch(self, project: str, version: int, num_rows: int, seconds: float) -> None:
        """Count a batch that a version was run on."""
        key = (project, str(version))
        self.batch_size[key].observe(num_rows)
        self.predict[key].observe(seconds)

    def count_answers(self, project: str, version: int, begun: Iterable[float]) -> None:
        """Count answers of a version to requests that came at these times (`time.monotonic`), in order."""
        key = (project, str(version))
        now, latency, num = time.monotonic(), self.latency[key], 0
        for at, same in groupby(begun):
            num_same = len(list(same))
            latency.observe(now - at, num_same)
            num += num_same
        self.requests[(*key, "200")] += num

    def page(self) -> bytes:
        """Return the page in Prometheus' text format."""
        return generate_latest(self._shown)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; called by the registry."""
        version = ("project", "version")
        kserve = ("model_name", "model_version")  # KServe's names, so that its dashboards work
        yield _counter("tidemill_requests", "Predictions by status.", (*version, "status"), self.requests)
        yield _counter("tidemill_fallbacks", "Answers of another version.", (*version, "reason"), self.fallbacks)
        yield _counter("tidemill_feedback", "Feedback written.", ("project", "kind"), self.feedback)
        yield _counter("tidemill_shadows_dropped", "Shadow rows not run.", version, self.shadows_dropped)
        outliers = "Inputs outside what the answering version learnt from."
        yield _counter("tidemill_outliers", outliers, (*version, "input"), self.outliers)
        yield _counter("tidemill_cache_hits", "Answers from remembered scores.", version, self.cache_hits)
        yield _gauge("tidemill_cache_bytes", "Memory of remembered scores.", ("project",), self.cache_bytes)
        yield _counter("tidemill_load_failures", "Versions that did not load.", version, self.load_failures)
        yield _counter("tidemill_log_failures", "Writes to the log that failed.", (), self.log_failures)
        yield _gauge("tidemill_log_writable", "1 while rows can be logged.", (), self.log_writable)
        yield _counter("tidemill_unlogged", "Predictions answered but not logged.", ("project",), self.unlogged)
        yield _histogram("tidemill_log_write_seconds", "Time of a write to the log.", (), {(): self.log_write})
        yield _counter("tidemill_route_poll_failures", "Looks at the routes that failed.", (), self.poll_failures)
        yield _gauge("tidemill_route_revision", "Revision of the route in force.", ("project",), self.route_revision)
        yield _gauge("tidemill_requests_waiting", "Requests that are not answered yet.", (), self.waiting)
        yield _histogram("tidemill_request_seconds", "From receipt to reply.", version, self.latency)
        yield _histogram("tidemill_batch_size", "Rows of a batch.", version, self.batch_size)
        yield _histogram("request_predict_seconds", "Time of a batch in the model.", kserve, self.predict)


def _counter(name: str, text: str, labels: Sequence[str], values: Mapping[_Labels, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauge(name: str, text: str, labels: Sequence[str], values: Mapping[_Labels, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, text: str, labels: Sequence[str], values: Mapping[_Labels, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, histogram in values.items():
        family.add_metric(key, histogram.buckets(), histogram.total)
    return family
