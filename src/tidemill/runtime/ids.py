"""Request ids: sortable by time, unique without asking anybody, and recognisable as ours without a look-up."""

from __future__ import annotations

import hmac
import os
import re
from hashlib import blake2b

_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_COUNTER_BITS = 26
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1
_TAG_BYTES = 3


class IdMaker:
    """Makes and recognises the request ids of one project.

    An id is a UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then in its 74 free bits a counter (26), a nonce drawn
    by this process (24) and a tag (24). The tag is the BLAKE2b hash of all other bits keyed with the project's
    `secret`, so feedback for an id that was never given is refused without a look-up; a guess passes once in 2**24.
    """

    def __init__(self, secret: bytes, *, nonce: int | None = None, counter: int | None = None) -> None:
        self._keyed = blake2b(key=secret[:64], digest_size=_TAG_BYTES)
        self._nonce_bytes = os.urandom(3) if nonce is None else (nonce & 0xFFFFFF).to_bytes(3, "big")
        self._counter = int.from_bytes(os.urandom(2), "big") if counter is None else counter

    def new(self, now_micros: int) -> str:
        """Return a new id for a request received at `now_micros`."""
        return self.several(now_micros, 1)[0]

    def several(self, now_micros: int, num: int) -> list[str]:
        """Return as many new ids for requests received at `now_micros`; quicker than one after the other."""
        nonce, nonce_text = self._nonce_bytes, self._nonce_bytes.hex()
        counter, out = self._counter, []
        high = -1
        for _ in range(num):
            counter = (counter + 1) & _COUNTER_MASK
            if counter >> 14 != high:  # the first 8 bytes are the same for 16384 ids of a millisecond
                high = counter >> 14
                head = ((now_micros // 1000) << 16 | 7 << 12 | high).to_bytes(8, "big")
                keyed = self._keyed.copy()
                keyed.update(head)
                text = head.hex()
                begin = f"{text[:8]}-{text[8:12]}-{text[12:]}-"
            low = 0x8000 | counter & 0x3FFF
            hasher = keyed.copy()
            hasher.update(low.to_bytes(2, "big") + nonce)
            out.append(f"{begin}{low:04x}-{nonce_text}{hasher.hexdigest()}")
        self._counter = counter
        return out

    def issued(self, text: str) -> bool:
        """Tell whether `text` is an id, in canonical lower case, that a holder of this secret made."""
        if _CANONICAL.fullmatch(text) is None:
            return False
        digits = text.replace("-", "")
        return hmac.compare_digest(self._tag(bytes.fromhex(digits[:26])), digits[26:])

    def _tag(self, head: bytes) -> str:
        hasher = self._keyed.copy()  # quicker than to take in the key again
        hasher.update(head)
        return hasher.hexdigest()
