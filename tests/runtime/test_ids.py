"""Request ids: UUIDv7, never the same twice, sorted by time, and known again by who made them."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from tidemill.runtime.ids import IdMaker

SECRET = bytes(range(32))
NOW = 1_800_000_000_000_000


@given(st.integers(0, 2**48 * 1000 - 1), st.binary(min_size=1, max_size=64))
def test_an_id_is_a_uuid_of_version_7_that_carries_its_time(now, secret):
    maker = IdMaker(secret)
    text = maker.new(now)
    made = uuid.UUID(text)
    assert (str(made), made.version, made.variant) == (text, 7, uuid.RFC_4122)
    assert made.int >> 80 == now // 1000
    assert maker.issued(text)


def test_ids_of_one_process_are_distinct_and_sorted_even_within_a_millisecond():
    maker = IdMaker(SECRET, counter=0)
    ids = [maker.new(NOW) for _ in range(20_000)]
    assert ids == sorted(set(ids))


def test_two_processes_with_the_same_secret_and_time_make_different_ids_that_both_know():
    one, other = IdMaker(SECRET, nonce=1, counter=0), IdMaker(SECRET, nonce=2, counter=0)
    made = {one.new(NOW), other.new(NOW)}
    assert len(made) == 2
    assert all(maker.issued(text) for maker in (one, other) for text in made)


def test_the_counter_wraps_without_spilling_into_other_bits():
    maker = IdMaker(SECRET, counter=2**26 - 2)
    ids = [maker.new(NOW) for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(uuid.UUID(text).version == 7 and maker.issued(text) for text in ids)


@given(st.integers(0, 127))
def test_an_id_with_any_bit_changed_is_not_known(bit):
    maker = IdMaker(SECRET, nonce=7, counter=7)
    changed = uuid.UUID(int=uuid.UUID(maker.new(NOW)).int ^ (1 << bit))
    assert not maker.issued(str(changed))


def test_an_id_of_another_project_is_not_known():
    assert not IdMaker(b"another").issued(IdMaker(SECRET).new(NOW))


@given(st.one_of(st.text(max_size=50), st.uuids().map(str)))
def test_what_is_no_id_of_ours_is_not_known(text):
    assert not IdMaker(SECRET).issued(text)


def test_only_the_canonical_form_is_known_because_feedback_joins_by_it():
    maker = IdMaker(SECRET, nonce=0xABCDEF)
    text = maker.new(NOW)
    assert maker.issued(text)
    assert not any(maker.issued(form) for form in (text.upper(), text.replace("-", ""), f"{{{text}}}", text + "\n"))


@given(counter=st.integers(0, 2**26 - 1), num=st.integers(0, 50))
def test_ids_made_together_are_those_made_one_after_the_other(counter: int, num: int) -> None:
    together = IdMaker(b"k" * 32, nonce=7, counter=counter).several(1_700_000_000_123_456, num)
    single = IdMaker(b"k" * 32, nonce=7, counter=counter)
    assert together == [single.new(1_700_000_000_123_456) for _ in range(num)]
    assert len(set(together)) == num
    assert all(single.issued(id_) for id_ in together)
