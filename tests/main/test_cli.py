from __future__ import annotations

import contextlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

import unisono
from unisono.main import cli, endpoints
from unisono.main.endpoints import Endpoints


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISONO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    for name in ("UNISONO_CONFIG", "UNISONO_API_URL", "UNISONO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.run(list(arguments))
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"unisono {unisono.__version__}\n"


WRONG = [
    (("up", "--roles", "front,rear"), 2, "--roles = 'rear': must be among historian, realtime, web, front"),
    (("config", "check", "nowhere.toml"), 2, "file = 'nowhere.toml': No such file"),
    (("bench", "speed"), 2, "bench = 'speed': must be one of allocate"),
    (("enrol", "nowhere.ndjson"), 2, "file = 'nowhere.ndjson': No such file"),
    (("enrol", __file__), 2, "must hold one JSON object a line (NDJSON)"),
    (("alarms", "--note", "seen"), 2, "--note = 'seen': must be given with --acknowledge only"),
    (("status",), 3, "start it with: unisono up"),
    (("keys", "list"), 3, "start it with: unisono up"),
    (("log", "verify"), 3, "start it with: unisono up"),
    (("demo", "--world", "flat"), 2, "--world = 'flat': must be default or data"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_a_mistake_is_one_line_and_an_exit_code(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == code
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("unisono: ")
    assert "Traceback" not in said


def test_config_check_names_field_value_and_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "unisono.toml").write_text("cycle_s = 60\n")
    assert run("config", "check") == 2
    assert "unisono.toml: cycle_s = 60: must be less than or equal to 10" in capsys.readouterr().err


def test_up_on_a_folder_that_is_a_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").touch()
    assert run("up") == 2
    assert "data_dir" in capsys.readouterr().err


class FakeApi(http.server.BaseHTTPRequestHandler):
    """Answers what it is told and notes what it is asked."""

    answers: ClassVar[dict[str, tuple[int, Any]]] = {}
    asked: ClassVar[list[tuple[str, str, dict[str, str], Any]]] = []

    def _answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        sent = self.rfile.read(length)
        body = json.loads(sent) if sent and self.headers["content-type"] == "application/json" else sent or None
        self.asked.append((self.command, self.path, dict(self.headers), body))
        status, answer = self.answers.get(self.path.partition("?")[0], (404, {"detail": "no such path"}))
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_POST = _answer  # noqa: N815  # the standard library asks for these names

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeApi]]:
    FakeApi.answers.clear()
    FakeApi.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeApi)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("UNISONO_API_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("UNISONO_API_KEY", "uni_test")
    yield FakeApi
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_dispatch_is_sent_with_key_and_idempotency_key(api: type[FakeApi]) -> None:
    api.answers["/v1/vpp/portfolios/pfo_1/dispatches"] = (201, {"dispatch_id": "dsp_1"})
    assert run("dispatch", "create", "pfo_1", "--kw", "-500", "--minutes", "15", "--idempotency-key", "again") == 0
    ((method, _, headers, body),) = api.asked
    assert (method, headers["Authorization"], headers["Idempotency-Key"]) == ("POST", "Bearer uni_test", "again")
    assert (body["kind"], body["target_kw"]) == ("change_kw", -500)


def test_a_refusal_of_the_api_is_told_in_its_words(api: type[FakeApi], capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/v1/vpp/dispatches/dsp_1/cancel"] = (409, {"detail": "dispatch 'dsp_1': has ended"})
    assert run("dispatch", "cancel", "dsp_1") == 2
    assert capsys.readouterr().err == "unisono: dispatch 'dsp_1': has ended\n"


def job(state: str, n_enrolled: int, n_errors: int, n_remaining: int) -> dict[str, Any]:
    url = "/v1/jobs/job_1"
    counts = {"n_total": 3, "n_enrolled": n_enrolled, "n_errors": n_errors, "n_remaining": n_remaining}
    urls = {"status_url": url, "errors_url": f"{url}/errors", "result_url": f"{url}/result"}
    return {"job_id": "job_1", "state": state, "reason": None, **counts, **urls}


LINES = b'{"partner_reference": "a"}\n\n{"partner_reference": "b"}\n{"partner_reference": "c"}\n'


def test_enrol_tells_progress_and_each_refused_row_by_its_line_and_keeps_the_secrets(
    api: type[FakeApi], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fleet.ndjson").write_bytes(LINES)
    refused = {"row": 3, "partner_reference": "c", "field": "zip", "value": "00000", "rule": "is no ZIP code"}
    made = {"row": 0, "device_id": "dev_1", "gateway_secret": "hush"}
    api.answers |= {
        "/v1/vpp/enrolments": (202, job("queued", 0, 0, 3)),
        "/v1/jobs/job_1": (200, job("completed", 2, 1, 0)),
        "/v1/jobs/job_1/errors": (200, {"items": [refused], "next_cursor": None}),
        "/v1/jobs/job_1/result": (200, made),
    }
    arguments = ("enrol", "fleet.ndjson", "--result", "made.ndjson", "--idempotency-key", "first")
    assert run(*arguments) == 1
    assert capsys.readouterr().out.splitlines() == [
        "job_1 queued: 3 rows, 0 enrolled, 0 refused, 3 remaining",
        "job_1 completed: 3 rows, 2 enrolled, 1 refused, 0 remaining",
        "fleet.ndjson:4: zip of c = '00000': is no ZIP code",
        "ids and secrets are in made.ndjson",
    ]
    _, path, headers, body = api.asked[0]
    assert (path, headers["Idempotency-Key"], body) == ("/v1/vpp/enrolments", "first", LINES)
    assert json.loads((tmp_path / "made.ndjson").read_text()) == made
    assert (tmp_path / "made.ndjson").stat().st_mode & 0o077 == 0
    n_asked = len(api.asked)
    assert run(*arguments) == 2, "what was kept is not written over"
    assert "--result = 'made.ndjson': File exists" in capsys.readouterr().err
    assert len(api.asked) == n_asked


def test_enrol_of_good_rows_ends_well_and_says_where_the_secrets_are(
    api: type[FakeApi], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fleet.ndjson").write_bytes(LINES)
    api.answers["/v1/vpp/enrolments"] = (202, job("completed", 3, 0, 0))
    api.answers["/v1/jobs/job_1/errors"] = (200, {"items": [], "next_cursor": None})
    assert run("enrol", "fleet.ndjson") == 0
    assert "GET /v1/jobs/job_1/result" in capsys.readouterr().out
    api.answers["/v1/vpp/enrolments"] = (202, job("failed", 1, 0, 2) | {"reason": "the body is damaged"})
    assert run("enrol", "fleet.ndjson") == 1
    assert "job_1: the body is damaged" in capsys.readouterr().out


def test_alarms_are_listed_open_or_all_and_acknowledged(api: type[FakeApi], capsys: pytest.CaptureFixture[str]) -> None:
    alarm = {"alarm_id": "alm_1", "kind": "gateway_silent", "subject_id": "gwy_1", "detail": "nothing for 300 s"}
    api.answers["/v1/alarms"] = (200, {"items": [alarm], "next_cursor": None})
    api.answers["/v1/alarms/alm_1/acknowledge"] = (200, {**alarm, "state": "acknowledged"})
    assert run("alarms") == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("alm_1", "gateway_silent", "gwy_1", "nothing for 300 s"))
    assert run("alarms", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [alarm]
    assert run("alarms", "--acknowledge", "alm_1", "--note", "crew informed") == 0
    asked = [(path, body) for _, path, _, body in api.asked]
    assert asked == [
        ("/v1/alarms?limit=50&open_only=true", None),
        ("/v1/alarms?limit=50&open_only=false", None),
        ("/v1/alarms/alm_1/acknowledge", {"note": "crew informed"}),
    ]


def test_a_bad_key_is_told(api: type[FakeApi], capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/v1/keys"] = (401, {"detail": "revoked"})
    assert run("keys", "list") == 2
    assert "UNISONO_API_KEY" in capsys.readouterr().err


def test_pages_are_followed_to_their_end_or_the_limit(api: type[FakeApi], capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/v1/devices"] = (200, {"items": [{"device_id": "dev_1"}] * 2, "next_cursor": "on"})
    assert run("devices", "--limit", "5", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 5
    assert [path for _, path, _, _ in api.asked] == [
        "/v1/devices?limit=5",
        "/v1/devices?limit=3&cursor=on",
        "/v1/devices?limit=1&cursor=on",
    ]


def test_status_shows_what_became_of_the_readings(
    api: type[FakeApi], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"data_dir": str(tmp_path / "data"), "pid": os.getpid(), "mqtt_port": 1, "children": {}}
    facts = dict.fromkeys(Endpoints.__struct_fields__, "") | known | {"metrics_port_of_role": {}}
    (tmp_path / "data").mkdir()
    endpoints.write(msgspec.convert(facts, Endpoints))
    totals = {"accepted": 12, "kept": 9, "duplicate": 0, "malformed": 3}
    api.answers["/v1/ingest/counters"] = (200, {"totals": totals, "missing": ["front front-0 is late"], "sources": []})
    with contextlib.suppress(SystemExit):
        cli.run(["status"])
    assert "readings: 12 accepted, 9 kept, 3 malformed; front front-0 is late\n" in capsys.readouterr().out
    api.answers["/v1/ingest/counters"] = (503, {"detail": "NATS is unavailable"})
    with contextlib.suppress(SystemExit):
        cli.run(["status", "--json"])
    assert json.loads(capsys.readouterr().out)["readings"] == {"unknown": "NATS is unavailable"}
