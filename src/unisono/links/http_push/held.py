"""Commands that wait for their gateway to fetch them: a bounded list each, oldest out first, expired ones never shown.

The cursor is the place in the stream of commands, so it stays right across fronts and restarts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from unisono.base.instants import NS_PER_MS
from unisono.wire.frames import Outgoing, encode_fetched

# A gateway that fetches every 30 s and is sent a frame and a renewal each 4 s cycle has 15 waiting.
PER_GATEWAY_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class _Held:
    cursor: int
    message: Outgoing


class HeldCommands:
    """What each gateway has not fetched, or could fetch again, until it expires."""

    def __init__(self, per_gateway_max: int = PER_GATEWAY_MAX) -> None:
        self._held: dict[int, deque[_Held]] = {}
        self._per_gateway_max = per_gateway_max
        self._newest_cursor = 0
        self.n_overflowed = 0

    def hold(self, message: Outgoing, cursor: int) -> None:
        """Keep a message for its gateway; one at a cursor that is held already changes nothing."""
        self.pass_cursor(cursor)
        waiting = self._held.setdefault(message.gateway_no, deque())
        if any(one.cursor == cursor and one.message == message for one in waiting):
            return
        if len(waiting) == self._per_gateway_max:
            waiting.popleft()
            self.n_overflowed += 1
        waiting.append(_Held(cursor, message))

    def pass_cursor(self, cursor: int) -> None:
        """Note that everything up to this cursor has been looked at."""
        self._newest_cursor = max(self._newest_cursor, cursor)

    def fetch(self, gateway_no: int, after: int, now_ns: int) -> bytes:
        """Return, as JSON, what is newer than ``after`` and not expired, of each shard's highest epoch only."""
        waiting = self._held.get(gateway_no, deque())
        now_ms = now_ns // NS_PER_MS
        while waiting and waiting[0].message.expires_ms <= now_ms:
            waiting.popleft()
        epoch_of_shard: dict[int, int] = {}
        for one in waiting:
            message = one.message
            epoch_of_shard[message.shard] = max(message.epoch, epoch_of_shard.get(message.shard, 0))
        alive = [
            one.message
            for one in waiting
            if one.cursor > after
            and one.message.expires_ms > now_ms
            and one.message.epoch == epoch_of_shard[one.message.shard]
        ]
        return encode_fetched(alive, self._newest_cursor)
