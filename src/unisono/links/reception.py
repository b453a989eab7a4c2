"""From what arrived on a gateway's topics to batches for the stream; the same for every link that carries our forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.errors import InvalidInput
from unisono.links.allowance import Allowances
from unisono.links.identity import Identity
from unisono.links.tally import Tally
from unisono.model.batches import NO_SEQ, AckBatch, ReadingBatch
from unisono.wire.acks import decode_acks
from unisono.wire.bodies import BodiesFound
from unisono.wire.judge import CAUSES, GOOD, OUT_OF_RANGE, UNKNOWN_DEVICE, Judged
from unisono.wire.natsbuffer import Scanned
from unisono.wire.packed import decode_packed
from unisono.wire.rules import DecodedReadings, RowError, settle
from unisono.wire.telemetry import Reading, decode_batch, decode_single, raw_columns
from unisono.wire.topics import Up, UpName, gateway_id_of, parse_up

Arrived = tuple[UpName, bytes]

_RATE_LIMITED: Final = 255
_CAUSE_OF_VERDICT: Final = {
    UNKNOWN_DEVICE: CAUSES[UNKNOWN_DEVICE],
    OUT_OF_RANGE: CAUSES[OUT_OF_RANGE],
    _RATE_LIMITED: "rate_limited",
}


@dataclass(frozen=True, slots=True)
class Received:
    """One batch for the stream. ``receipt_seq`` is what to receipt to ``gateway_id`` once it is kept (-1: nothing)."""

    batch: ReadingBatch | AckBatch
    gateway_id: str = ""
    receipt_seq: int = NO_SEQ


@dataclass(frozen=True, slots=True)
class ReceivedBatches:
    """Batches of several gateways as one message; a receipt is due for each of ``parts`` once it is kept."""

    batch: ReadingBatch
    # By part: gateway_no, sequence and how many readings are good.
    parts: NDArray[np.int64]


class Reception:
    """Decodes with the present identity and counts."""

    def __init__(self, identity: Identity, tally: Tally, allowances: Allowances | None = None) -> None:
        self.identity = identity
        self.tally = tally
        # None: nobody is limited.
        self.allowances = allowances
        # Told of a gateway that sends too much of what its broker acknowledged already.
        self.on_flood: Callable[[int], None] = _nobody_is_told

    def receive(self, arrived: Sequence[Arrived], known_ns: int) -> list[Received]:
        """Return the batches of these messages in order, all singles together as the first, all answers as the last.

        Nothing is raised. A batch of which no row was good is still returned, empty, because its receipt is due.
        """
        singles = [(name, payload) for name, payload in arrived if name.what is Up.TELEMETRY]
        received = [self._batch(name, payload, known_ns) for name, payload in arrived if name.what is not Up.TELEMETRY]
        batches = [one for one in received if one is not None and not isinstance(one.batch, AckBatch)]
        answers = [one.batch for one in received if one is not None and isinstance(one.batch, AckBatch)]
        if singles:
            batches.insert(0, Received(self.singles(singles, known_ns)))
        if answers:
            batches.append(Received(AckBatch.together(answers)))
        return batches

    def named(self, name: str, separator: str) -> UpName | None:
        """Return what a topic or subject below ``u`` says; None, and a malformed message, when it is none of ours."""
        found = parse_up(name, separator)
        if found is None:
            self.lose(gateway_id_of(name, separator), "malformed")
        return found

    def lose(self, gateway_id: str, cause: str) -> None:
        """Count a message of which nothing was decoded."""
        self.tally.add_message(self.identity.gateway_no(gateway_id), cause)

    def overflow(self, batch: ReadingBatch) -> None:
        """Count readings that were accepted here and then went, with their batch, from a full queue."""
        if len(batch.parts):
            self.tally.add_many(batch.parts[:, 0], "overflowed", batch.parts[:, 2])
        elif batch.gateway_no >= 0:
            self.tally.add(batch.gateway_no, "overflowed", len(batch))
        else:
            self.tally.add_rows(self.identity.gateway_of_device[batch.device_no], "overflowed")

    def singles(self, arrived: Sequence[Arrived], known_ns: int) -> ReadingBatch:
        """Return single readings of many gateways as one batch; refused ones are counted."""
        readings: list[Reading] = []
        names: list[UpName] = []
        for name, payload in arrived:
            decoded = decode_single(payload)
            if isinstance(decoded, RowError):
                self.lose(name.gateway_id, "malformed")
            else:
                readings.append(decoded)
                names.append(name)
        gateway_nos = self.identity.gateways.find([name.gateway_id for name in names])
        device_nos = self.identity.devices.find([name.device_id for name in names])
        owners = self.identity.gateway_of_device
        is_own = (device_nos >= 0) & (owners[np.maximum(device_nos, 0)] == gateway_nos) & (gateway_nos >= 0)
        raw = raw_columns(readings, range(len(readings)), np.where(is_own, device_nos, -1).astype(np.int32))
        decoded_rows = settle(raw, [], known_ns=known_ns)
        self.tally.add_rows(gateway_nos, "accepted")
        for gateway_no, n in zip(
            *(found.tolist() for found in np.unique(gateway_nos, return_counts=True)), strict=True
        ):
            self._owe(gateway_no, n)
        for error in decoded_rows.rejected:
            self.tally.add(int(gateway_nos[error.row]), error.cause)
        return decoded_rows.batch

    def scanned(self, scanned: Scanned, known_ns: int) -> ReadingBatch:
        """Return the single readings that the kernel found as one batch; refused ones are counted."""
        singles = self._allowed_singles(scanned.singles)
        self.tally.add_rows(singles.gateway_no, "accepted")
        self._count_refused(singles)
        return singles.batch(known_ns)

    def scanned_batches(self, scanned: Scanned, known_ns: int) -> ReceivedBatches | None:
        """Return the gateways' batches that the kernel found as one message; refused readings are counted."""
        if not len(scanned.parts):
            return None
        self.tally.add_many(scanned.parts[:, 0], "accepted", scanned.parts[:, 2])
        is_allowed = np.ones(len(scanned.parts), np.bool_)
        if self.allowances is not None:
            # A batch that may not be sent gets no receipt, and comes again.
            is_allowed = self.allowances.take_whole(scanned.parts[:, 0], scanned.parts[:, 2])
        batches = _without(scanned.batches, ~np.repeat(is_allowed, scanned.parts[:, 2]))
        self._count_refused(batches)
        parts = replace(scanned, batches=batches).good_parts()[is_allowed]
        return _as_one(batches, parts, known_ns) if len(parts) else None

    def bodies(self, found: BodiesFound, known_ns: int) -> ReceivedBatches | None:
        """Return the bodies that hold nothing but good readings as one message; none is counted yet."""
        parts = found.parts[found.parts[:, 2] >= 0]
        return _as_one(found.readings, parts, known_ns) if len(parts) else None

    def readings(self, decoded: DecodedReadings, gateway_no: int) -> ReadingBatch:
        """Count a decoded batch and return its good rows."""
        self.tally.add_decoded(gateway_no, decoded)
        return decoded.batch

    def _allowed_singles(self, judged: Judged) -> Judged:
        """Return the rows with those marked that come beyond what their gateway may send."""
        if self.allowances is None:
            return judged
        whose = judged.gateway_no
        wanted = np.bincount(whose[whose >= 0])
        gateway_nos = np.flatnonzero(wanted)
        granted = self.allowances.take(gateway_nos, wanted[gateway_nos])
        is_over = granted < wanted[gateway_nos]
        if not is_over.any():
            return judged
        beyond = np.zeros(whose.size, np.bool_)
        for gateway_no, n in zip(gateway_nos[is_over].tolist(), granted[is_over].tolist(), strict=True):
            beyond[np.flatnonzero(whose == gateway_no)[n:]] = True
        return _without(judged, beyond)

    def _owe(self, gateway_no: int, n_readings: int) -> None:
        """Note readings that are kept because their gateway may have been told so; say when they are too many."""
        if self.allowances is not None and self.allowances.owe(gateway_no, n_readings):
            self.on_flood(gateway_no)

    def _count_refused(self, judged: Judged) -> None:
        for verdict, cause in _CAUSE_OF_VERDICT.items():
            self.tally.add_rows(judged.gateway_no[judged.verdict == verdict], cause)

    def _batch(self, name: UpName, payload: bytes, known_ns: int) -> Received | None:
        gateway_no = self.identity.gateway_no(name.gateway_id)
        try:
            if name.what is Up.ACKS:
                acks = decode_acks(payload, gateway_no, self.identity, known_ns)
                self.tally.add_errors(gateway_no, acks.rejected)
                return Received(acks.batch, name.gateway_id)
            decode = decode_packed if name.what is Up.PACKED else decode_batch
            batch = self.readings(decode(payload, gateway_no, self.identity, known_ns), gateway_no)
            self._owe(gateway_no, len(batch))
        except InvalidInput:
            # The counter is the sender's answer on this way in; there is no other.
            self.tally.add_message(gateway_no, "malformed")
            return None
        return Received(batch, name.gateway_id, batch.batch_seq if gateway_no >= 0 else NO_SEQ)


def _as_one(judged: Judged, parts: NDArray[np.int64], known_ns: int) -> ReceivedBatches:
    if len(parts) == 1:
        gateway_no, batch_seq, _ = parts[0].tolist()
        return ReceivedBatches(judged.batch(known_ns, gateway_no=gateway_no, batch_seq=batch_seq), parts)
    return ReceivedBatches(judged.batch(known_ns, parts=parts), parts)


def _without(judged: Judged, beyond: NDArray[np.bool_]) -> Judged:
    """Return the rows with those that are ``beyond`` what their gateway may send marked, and not among the good."""
    if not beyond.any():
        return judged
    is_kept = ~beyond[judged.verdict == GOOD]
    columns = {name: column[is_kept] for name, column in judged.columns.items()}
    return Judged(columns, judged.gateway_no, np.where(beyond, _RATE_LIMITED, judged.verdict).astype(np.uint8))


def _nobody_is_told(gateway_no: int) -> None:
    """Stand in for ``Reception.on_flood`` where nobody can do anything about it."""
