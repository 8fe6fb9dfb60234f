"""Times are UTC, kept as whole microseconds, and durations are read as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.clock import ManualClock, SystemClock, duration, from_micros, micros, rest_s
from tidemill.errors import ProjectError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIMES = st.builds(
    lambda away, hours: (NOON + timedelta(microseconds=away)).astimezone(timezone(timedelta(hours=hours))),
    st.integers(-(2**52), 2**52),
    st.integers(-14, 14),
)
UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


@given(st.integers(1, 10**6), st.sampled_from([0.5, 2.0, 5.0]))
def test_a_rest_doubles_up_to_its_longest_however_often_something_has_failed(failures: int, first_s: float) -> None:
    assert rest_s(0, first_s=first_s) == 0.0
    assert rest_s(1, first_s=first_s) == first_s
    assert rest_s(failures + 1, first_s=first_s) == min(2 * rest_s(failures, first_s=first_s), 300.0)


@given(TIMES)
def test_a_time_survives_as_microseconds(at: datetime) -> None:
    assert from_micros(micros(at)) == at
    assert from_micros(micros(at)).utcoffset() == timedelta(0)


@given(TIMES, TIMES)
def test_microseconds_keep_the_order_of_times(one: datetime, other: datetime) -> None:
    assert (micros(one) < micros(other)) == (one < other)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        micros(NOON.replace(tzinfo=None))


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from(sorted(UNITS))), min_size=1, max_size=4), st.booleans())
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]], spaced: bool) -> None:
    text = (" " if spaced else "").join(f"{number}{unit}" for number, unit in parts)
    wanted = timedelta(milliseconds=sum(number * UNITS[unit] for number, unit in parts))
    assert abs(duration(text) - wanted) <= timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1.5h", 5400), (" 2 d ", 172_800), ("1d 12h", 129_600), ("250ms", 0.25), ("0s", 0)]
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)


def test_a_timedelta_is_a_duration() -> None:
    assert duration(timedelta(days=2)) == timedelta(days=2)


@pytest.mark.parametrize(
    "value",
    ["", "30", "d", "30 days", "-1d", "1d,2h", "1d x", "1e3s", "nan s", "99999999999w", "100000d", None, 30, 2.5],
)
def test_what_is_no_duration_is_refused_with_its_name_its_value_and_what_to_write(value: object) -> None:
    with pytest.raises(ProjectError, match=r"horizon is .*30d") as caught:
        duration(value, name="horizon")  # type: ignore[arg-type]
    assert repr(value) in caught.value.message


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        assert duration(text) >= timedelta(0)
    except ProjectError as error:
        assert repr(text) in str(error)


def test_a_negative_duration_is_refused() -> None:
    with pytest.raises(ProjectError, match="negative"):
        duration(timedelta(seconds=-1))


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(NOON)
    assert clock.now() == clock.now() == NOON
    clock.sleep(90)
    assert clock.now() == NOON + timedelta(seconds=90)
    clock.set(NOON + timedelta(hours=1))
    assert clock.now() == NOON + timedelta(hours=1)


def test_no_clock_runs_backwards() -> None:
    clock = ManualClock(NOON)
    with pytest.raises(ValueError, match="backwards"):
        clock.set(NOON - timedelta(seconds=1))
    for one in (clock, SystemClock()):
        with pytest.raises(ValueError):
            one.sleep(-1)
    assert clock.now() == NOON


def test_every_clock_tells_utc() -> None:
    plus_two = ManualClock(NOON.astimezone(timezone(timedelta(hours=2))))
    for clock in (SystemClock(), plus_two):
        assert clock.now().utcoffset() == timedelta(0)
    assert plus_two.now() == NOON
