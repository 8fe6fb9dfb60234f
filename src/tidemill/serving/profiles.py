"""What a device says of the rows it saw, judged before it is written: the sketches are read by the loop."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from tidemill.clock import micros
from tidemill.errors import InvalidInput
from tidemill.manifest import Manifest
from tidemill.records import DeviceProfile
from tidemill.serving.protocol import ProfileItem
from tidemill.strategy.log import Profile

_MAX_DEVICE_CHARS = 100
_AHEAD_US = 300_000_000  # a device's clock may be ahead by that much
_LONGEST_US = 7 * 86_400_000_000


class _Head(msgspec.Struct):
    format: int
    num_rows: int


_head = msgspec.msgpack.Decoder(_Head)


def judge_profile(item: ProfileItem, manifest: Manifest, now: int) -> DeviceProfile:
    """Return the record to write; times are microseconds.

    Raises:
        InvalidInput: the project takes no profiles, the window is none, or the profile has no head that is known.
    """
    if not isinstance(manifest.log, Profile):
        raise InvalidInput(
            f"{manifest.project!r} takes no profiles.", "its strategy needs log=tm.log.Profile()", "profile"
        )
    if not 0 < len(item.device) <= _MAX_DEVICE_CHARS or not item.device.isprintable():
        raise InvalidInput(
            f"'device' is {item.device[:60]!r}.", f"send 1 to {_MAX_DEVICE_CHARS} printable characters", "device"
        )
    after, until = _micros(item.after, "after"), _micros(item.until, "until")
    if not after < until <= now + _AHEAD_US or until - after > _LONGEST_US:
        raise InvalidInput("the window is none.", "send a past one of at most 7 days, 'after' before 'until'", "until")
    try:
        head = _head.decode(item.profile)
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"'profile' does not read: {error}.", "send what Profile.to_bytes gave", "profile") from None
    if head.format != 1 or head.num_rows < 0:
        raise InvalidInput(f"'profile' is of format {head.format}.", "update this program, or the device's", "profile")
    return DeviceProfile(device=item.device, received_at=now, after=after, until=until, body=item.profile)


def _micros(at: datetime, name: str) -> int:
    if at.tzinfo is None:
        raise InvalidInput(f"{name!r} has no time zone.", "send a time such as 2026-03-01T10:00:00Z", name)
    return micros(at.astimezone(UTC))
