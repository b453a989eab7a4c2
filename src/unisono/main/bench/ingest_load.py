"""Publishers in a process of their own: MQTT 3.1.1 or HTTP/1.1 over raw sockets, their messages made beforehand.

    python -m unisono.main.bench.ingest_load SPEC.json

Says ``ready`` when all are connected, begins at a line on stdin, and writes what was sent and what was acknowledged as
(device, instant) pairs beside the specification. A message costs this process under a microsecond, so that what is
measured is the platform: of each message only the digits of its instant, and its sequence, are written anew.
"""

from __future__ import annotations

import re
import resource
import select
import socket
import sys
import time
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.main.bench.ingest_fleet import device_id, devices_of, gateway_id, pairs, secret
from unisono.wire.packed import HEADER_BYTES, POWERS_MAGIC, RECORD

TICK_S: Final = 0.05
CONNECT_TIMEOUT_S: Final = 60.0
# What is on its way when the load ends is waited for.
ANSWERS_TIMEOUT_S: Final = 30.0
INSTANT_DIGITS: Final = 13
# Sequences of so many digits fit JSON's 2^53.
FIRST_SEQ: Final = 10**12
_INSTANT: Final = b"1" * INSTANT_DIGITS
_RECEIPT: Final = re.compile(rb'"through_seq":(\d+)')
_ACCEPTED: Final = re.compile(rb"HTTP/1.1 202 ")
_ANSWER_END: Final = b'"rejected":[]}'
_PUBACK_BYTES: Final = 4

Bytes = NDArray[np.uint8]


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What one process sends. ``rate_per_s`` readings in all; 0: as fast as answers come, ``window`` on their way."""

    form: Literal["single", "packed", "json", "http"]
    qos: int
    host: str
    port: int
    gateways: tuple[int, int]
    n_devices: int
    n_gateways: int
    duration_s: float
    rate_per_s: float = 0.0
    # Messages of each gateway that may be unanswered.
    window: int = 1
    per_batch: int = 100


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What one process did; the pairs themselves are in files."""

    n_readings: int
    n_acknowledged: int
    began_ns: int
    ended_ns: int
    cpu_s: float


class Publisher:
    """One gateway's connection, with its messages as rows of bytes of equal length."""

    def __init__(self, spec: Spec, gateway_no: int) -> None:
        self.gateway_no = gateway_no
        self.devices = np.array(devices_of(gateway_no, spec.n_devices, spec.n_gateways), np.int64)
        self.messages, self._places = _FORMS[spec.form](spec, gateway_no, self.devices)
        self.per_message = 1 if spec.form in ("single", "http") else min(spec.per_batch, self.devices.size)
        self.n_sent = 0
        # Of each message sent: its instant, and whether it was acknowledged.
        self.sent_ms: list[tuple[int, int]] = []
        self.answered: list[int] = []
        self.n_answered = 0
        self._rest = b""
        self.socket = socket.create_connection((spec.host, spec.port), timeout=CONNECT_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, n: int) -> None:
        """Send the next ``n`` messages, stamped with this instant."""
        while n > 0:
            first = self.n_sent % len(self.messages)
            part = self.messages[first : first + n]
            at_ms = time.time_ns() // 1_000_000
            if self.sent_ms and at_ms <= self.sent_ms[-1][1] and self.n_sent >= len(self.messages):
                # A device has one reading a millisecond.
                at_ms = self.sent_ms[-1][1] + 1
            self._stamp(part, at_ms)
            self.socket.sendall(part.data)
            self.sent_ms.append((len(part), at_ms))
            self.n_sent += len(part)
            n -= len(part)

    def take(self, form: str, qos: int) -> None:
        """Read the answers that are there."""
        data = self._rest + self.socket.recv(1 << 18, socket.MSG_DONTWAIT)
        if form == "http":
            whole = data.count(_ANSWER_END)
            assert whole == len(_ACCEPTED.findall(data)) or not whole, data[:200]
            self._rest = b"" if whole else data
            self.answered += range(self.n_answered, self.n_answered + whole)
            self.n_answered += whole
        elif form == "single":
            # Acknowledgements of one connection come in its messages' order.
            n, left = divmod(len(data), _PUBACK_BYTES)
            self._rest = data[len(data) - left :]
            assert not n or set(data[: n * _PUBACK_BYTES : _PUBACK_BYTES]) == {0x40}, data[:40]
            self.answered += range(self.n_answered, self.n_answered + n)
            self.n_answered += n
        else:
            self._take_receipts(data, qos)

    def acknowledged(self) -> NDArray[np.bool_]:
        """Return for each message sent whether it was answered."""
        flags = np.zeros(self.n_sent, np.bool_)
        flags[np.array(self.answered, np.int64)] = True
        return flags

    def sent_pairs(self) -> NDArray[np.int64]:
        """Return the pairs (message, reading) of all that was sent."""
        at_ms = np.repeat([ms for _, ms in self.sent_ms], [n for n, _ in self.sent_ms])
        rows = (np.arange(self.n_sent)[:, None] * self.per_message + np.arange(self.per_message)) % self.devices.size
        if self.per_message > 1:
            rows = np.broadcast_to(np.arange(self.per_message), (self.n_sent, self.per_message))
        return pairs(self.devices[rows], np.broadcast_to(at_ms[:, None], rows.shape))

    def _take_receipts(self, data: bytes, qos: int) -> None:
        # Each ends in a brace; what is behind the last one is the beginning of another.
        end = data.rfind(b"}") + 1
        self._rest = data[end:]
        seqs = [int(seq) - FIRST_SEQ for seq in _RECEIPT.findall(data[:end])]
        self.answered += seqs
        self.n_answered += len(seqs)

    def _stamp(self, part: Bytes, at_ms: int) -> None:
        digits = np.frombuffer(str(at_ms).encode(), np.uint8)
        n, places = len(part), self._places
        if "instants" in places:
            self._digits(part, places["instants"], digits)
        if "fractions" in places:
            self._digits(part, places["fractions"], digits[-3:])
        if "packet_id" in places:
            ids = (self.n_sent + np.arange(n)) % 65535 + 1
            part[:, places["packet_id"][0] : places["packet_id"][0] + 2] = (
                ids.astype(">u2").view(np.uint8).reshape(n, 2)
            )
        if "records" in places:
            start = places["records"][0]
            seqs = (FIRST_SEQ + self.n_sent + np.arange(n)).astype("<u8").view(np.uint8).reshape(n, 8)
            part[:, start - 8 : start] = seqs
            records = part[:, start:].reshape(n, self.per_message, RECORD.itemsize)
            at = RECORD.fields["measured_ms"][1] if RECORD.fields else 0
            records[:, :, at : at + 8] = np.frombuffer(at_ms.to_bytes(8, "little"), np.uint8)
        if "seq" in places:
            for row in range(n):
                text = str(FIRST_SEQ + self.n_sent + row).encode()
                part[row, places["seq"][0] : places["seq"][0] + len(text)] = np.frombuffer(text, np.uint8)

    @staticmethod
    def _digits(part: Bytes, places: list[int], digits: Bytes) -> None:
        if len(places) == 1:
            part[:, places[0] : places[0] + digits.size] = digits
        else:
            # Equally far from each other.
            step = places[1] - places[0]
            rows = part[:, places[0] : places[0] + step * len(places)]
            rows = np.lib.stride_tricks.as_strided(
                rows, (len(part), len(places), digits.size), (part.strides[0], step, 1)
            )
            rows[:] = digits


def _reading(device_no: int, *, named: bool) -> bytes:
    name = b'"id":"%s",' % device_id(device_no).encode() if named else b""
    return b'{%s"ts":%s,"p":-%04d.000,"soc":0.512}' % (name, _INSTANT, 1000 + device_no % 4000)


def _publish(topic: str, payload: bytes, qos: int) -> bytes:
    name = topic.encode()
    packet_id = b"\x00\x01" if qos else b""
    body = len(name).to_bytes(2, "big") + name + packet_id + payload
    return bytes([0x30 | qos << 1]) + _length(len(body)) + body


def _length(n: int) -> bytes:
    parts = bytearray()
    while True:
        n, low = divmod(n, 128)
        parts.append(low | (128 if n else 0))
        if not n:
            return bytes(parts)


def _rows(messages: list[bytes]) -> Bytes:
    return np.frombuffer(b"".join(messages), np.uint8).reshape(len(messages), -1).copy()


def _places_of_instants(message: bytes) -> dict[str, list[int]]:
    instants = [found.start() for found in re.finditer(rb'"ts":' + _INSTANT, message)]
    return {
        "instants": [at + 5 for at in instants],
        "fractions": [found.start() + 1 for found in re.finditer(rb"\.000,", message)],
    }


def _singles(spec: Spec, gateway_no: int, devices: NDArray[np.int64]) -> tuple[Bytes, dict[str, list[int]]]:
    gateway = gateway_id(gateway_no)
    messages = [
        _publish(f"u/{gateway}/{device_id(no)}/t", _reading(no, named=False), spec.qos) for no in devices.tolist()
    ]
    places = _places_of_instants(messages[0])
    if spec.qos:
        places["packet_id"] = [messages[0].index(b"/t\x00\x01") + 2]
    return _rows(messages), places


def _packed(spec: Spec, gateway_no: int, devices: NDArray[np.int64]) -> tuple[Bytes, dict[str, list[int]]]:
    n = min(spec.per_batch, devices.size)
    records = np.zeros(n, RECORD)
    records["device_no"] = devices[:n]
    records["power_w"] = -1000.0 - devices[:n] % 4000
    records["soc_frac"] = 0.512
    records["temperature_degc"] = records["voltage_v"] = np.nan
    payload = POWERS_MAGIC + n.to_bytes(4, "little") + bytes(8) + records.tobytes()
    message = _publish(f"u/{gateway_id(gateway_no)}/p", payload, spec.qos)
    return _rows([message] * spec.window), {"records": [message.index(POWERS_MAGIC) + HEADER_BYTES]}


def _batches(spec: Spec, gateway_no: int, devices: NDArray[np.int64]) -> tuple[Bytes, dict[str, list[int]]]:
    payload = _json_batch(devices[: spec.per_batch])
    message = _publish(f"u/{gateway_id(gateway_no)}/b", payload, spec.qos)
    return _rows([message] * spec.window), _places_of_instants(message) | {"seq": [message.index(b'"seq":') + 6]}


def _posts(_spec: Spec, gateway_no: int, devices: NDArray[np.int64]) -> tuple[Bytes, dict[str, list[int]]]:
    messages = []
    for no in range(devices.size):
        body = _json_batch(devices[no : no + 1])
        head = (
            "POST /v1/telemetry HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {gateway_id(gateway_no)}.{secret(gateway_no)}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        messages.append(head.encode() + body)
    return _rows(messages), _places_of_instants(messages[0]) | {"seq": [messages[0].index(b'"seq":') + 6]}


def _json_batch(devices: NDArray[np.int64]) -> bytes:
    readings = b",".join(_reading(no, named=True) for no in devices.tolist())
    return b'{"seq":%d,"readings":[%s]}' % (FIRST_SEQ, readings)


_FORMS: Final = {"single": _singles, "packed": _packed, "json": _batches, "http": _posts}


def _connect(publisher: Publisher, spec: Spec) -> None:
    """Log in over MQTT and, for batches, listen for receipts. Raises OSError when refused."""
    user = gateway_id(publisher.gateway_no)
    texts = [user, user, secret(publisher.gateway_no)]
    body = b"\x00\x04MQTT\x04\xc2\x00\x00" + b"".join(len(t).to_bytes(2, "big") + t.encode() for t in texts)
    publisher.socket.sendall(b"\x10" + _length(len(body)) + body)
    if _exactly(publisher.socket, 4)[3] != 0:
        raise OSError("refused by the broker")
    if spec.form in ("packed", "json"):
        topic = f"c/{user}/s".encode()
        body = b"\x00\x01" + len(topic).to_bytes(2, "big") + topic + b"\x00"
        publisher.socket.sendall(b"\x82" + _length(len(body)) + body)
        if _exactly(publisher.socket, 5)[4] != 0:
            raise OSError("subscription refused by the broker")


def _exactly(connection: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = connection.recv(n - len(data))
        if not part:
            raise OSError("closed by the server")
        data += part
    return data


def _at_a_rate(spec: Spec, publishers: list[Publisher]) -> None:
    """Send evenly, whatever comes back; a broker that does not read slows us down."""
    began_s = time.monotonic()
    each_per_s = spec.rate_per_s / len(publishers) / publishers[0].per_message
    while (now_s := time.monotonic()) < began_s + spec.duration_s:
        wanted = int((now_s - began_s) * each_per_s)
        for publisher in publishers:
            if wanted > publisher.n_sent:
                publisher.send(wanted - publisher.n_sent)
        time.sleep(max(0.0, now_s + TICK_S - time.monotonic()))


def _as_answered(spec: Spec, publishers: list[Publisher]) -> None:
    """Keep ``window`` messages of each gateway on their way; at the end wait for the last answers."""
    poll = select.epoll()
    publisher_of = {publisher.socket.fileno(): publisher for publisher in publishers}
    for number in publisher_of:
        poll.register(number, select.EPOLLIN)
    began_s = time.monotonic()
    for publisher in publishers:
        publisher.send(spec.window)
    per_s = spec.rate_per_s / publishers[0].per_message
    n_open = len(publishers) * spec.window
    while n_open and (now_s := time.monotonic()) < began_s + spec.duration_s + ANSWERS_TIMEOUT_S:
        may_send = now_s < began_s + spec.duration_s
        if may_send and per_s and sum(one.n_sent for one in publishers) > per_s * (now_s - began_s):
            time.sleep(0.002)
            continue
        for number, _ in poll.poll(0.1):
            publisher = publisher_of[number]
            before = publisher.n_answered
            publisher.take(spec.form, spec.qos)
            n_open -= publisher.n_answered - before
            room = spec.window - (publisher.n_sent - publisher.n_answered)
            if may_send and 2 * room >= spec.window:
                publisher.send(room)
                n_open += room


def main(path: Path) -> None:
    """Connect, wait for the word, send, write down what was sent."""
    spec = msgspec.json.decode(path.read_bytes(), type=Spec)
    publishers = [Publisher(spec, no) for no in range(*spec.gateways)]
    if spec.form != "http":
        for publisher in publishers:
            _connect(publisher, spec)
    print("ready", flush=True)
    sys.stdin.readline()
    before = resource.getrusage(resource.RUSAGE_SELF)
    began_ns = time.time_ns()
    is_answered = spec.qos > 0 or spec.form != "single"
    (_as_answered if is_answered else _at_a_rate)(spec, publishers)
    ended_ns = time.time_ns()
    after = resource.getrusage(resource.RUSAGE_SELF)
    all_pairs = [publisher.sent_pairs() for publisher in publishers]
    kept = [one[publisher.acknowledged()] for one, publisher in zip(all_pairs, publishers, strict=True)]
    np.save(path.with_suffix(".sent.npy"), np.concatenate([one.ravel() for one in all_pairs]))
    np.save(path.with_suffix(".acknowledged.npy"), np.concatenate([one.ravel() for one in kept]))
    sent = Sent(
        n_readings=sum(one.size for one in all_pairs),
        n_acknowledged=sum(one.size for one in kept),
        began_ns=began_ns,
        ended_ns=ended_ns,
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )
    print(msgspec.json.encode(sent).decode(), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
