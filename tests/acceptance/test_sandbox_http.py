"""The sandbox over real HTTP, driven by raw httpx with forms written by hand."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.sandbox import Fault, Sandbox, serve

pytest_plugins = ["prefect_mymsp.sandbox.pytest_plugin"]

LOGIN = b"user=demo&pwd=demo-password"
SEND = LOGIN + b"&originator=Demo&recipients=46701740605&msg=Hej+p%E5+dig"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

# The two ways uvicorn speaks HTTP; which one it takes depends on what else is installed.
PROTOCOLS = ["h11", *(["httptools"] if importlib.util.find_spec("httptools") else [])]


@pytest.fixture
def http(mymsp_sandbox: Sandbox) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mymsp_sandbox.url, trust_env=False, timeout=5) as client:
        yield client


def post(http: httpx.Client, endpoint: str, body: bytes) -> httpx.Response:
    return http.post(f"/external/{endpoint}", content=body, headers=FORM)


def test_a_message_from_send_to_delivery(http: httpx.Client, mymsp_sandbox: Sandbox) -> None:
    assert (mymsp_sandbox.user, mymsp_sandbox.password) == ("demo", "demo-password")
    assert mymsp_sandbox.base_url == f"{mymsp_sandbox.url}/external"
    response = post(http, "sendSms", SEND)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert response.text == "A\n100001\n"
    http.put("/_sandbox/clock", json={"advance_s": 60})
    result = post(http, "getSmsResult", LOGIN + b"&msgId=100001").text.splitlines()
    assert result[:2] == ["A", "1/1/1"]
    ledger = http.get("/_sandbox/ledger").json()["messages"]
    assert [(m["id"], m["account"], m["originator"], m["text"]) for m in ledger] == [
        ("100001", "demo", "Demo", "Hej på dig")
    ]
    assert ledger[0]["recipients"][0]["status"] == "delivered"
    update = post(http, "getMsgUpdates", LOGIN).text
    assert update.startswith("A\n;;0\t100001\t1\t46701740605\tdelivered\t20")
    assert post(http, "getMsgUpdates", LOGIN).text == "A\n"


def test_scheduled_over_http(http: httpx.Client) -> None:
    assert post(http, "sendSms", SEND + b"&deliverytime=209901010000%2B0").text == "A\n100001\n"
    assert post(http, "sendSms", SEND + b"&deliverytime=209901010000+0").text == "N\n34\n"
    assert post(http, "sendlater/getall", LOGIN).text == "A\n100001\t990101010000004+\n"
    assert post(http, "sendlater/get", LOGIN + b"&msgno=100001").text == "A\n100001\t990101010000004+\n"
    assert post(http, "sendlater/update", LOGIN + b"&msgno=100001&deliverytime=209901020000-1").text == "A\n"
    assert post(http, "sendlater/cancel", LOGIN + b"&msgno=100001").text == "A\n"
    assert post(http, "sendlater/getall", LOGIN).text == "A\n"


def test_get_works_and_is_recorded(http: httpx.Client) -> None:
    assert http.get("/external/sendSms?" + SEND.decode()).text == "A\n100001\n"
    assert post(http, "sendSms", SEND).text == "A\n100002\n"
    shown = http.get("/_sandbox/requests").json()
    assert (shown["total"], shown["credentials_in_url"], shown["faults"]) == (2, 1, {})
    assert [(r["method"], r["credentials_in_url"]) for r in shown["requests"]] == [("GET", True), ("POST", False)]
    assert {"at", "endpoint", "status", "outcome", "fault"} < set(shown["requests"][0])
    assert "demo-password" not in str(shown)


def test_other_methods_and_paths(http: httpx.Client) -> None:
    assert http.put("/external/sendSms").status_code == 405
    assert http.get("/external/sendMms").status_code == 404
    assert http.delete("/_sandbox/ledger").status_code == 405
    assert http.get("/_sandbox/ledger", headers={"Host": "evil.example"}).status_code == 421
    assert http.get("/_sandbox/health", headers={"Host": "localhost"}).json()["status"] == "ok"


def test_keep_alive(http: httpx.Client, mymsp_sandbox: Sandbox) -> None:
    streams = {id(post(http, "sendSms", SEND).extensions["network_stream"]) for _ in range(20)}
    assert len(streams) == 1
    assert len(mymsp_sandbox.gateway.messages) == 20


def test_no_response_waits_for_a_delayed_ack(http: httpx.Client) -> None:
    # Without TCP_NODELAY each takes 40 ms. The faster half is looked at: the machine may be busy with other tests.
    times = list[float]()
    for _ in range(50):
        started = time.perf_counter()
        post(http, "sendSms", SEND)
        times.append(time.perf_counter() - started)
    assert sorted(times)[25] < 0.035


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_connections_are_really_dropped(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    original = uvicorn.Config.__init__

    def chosen(self: uvicorn.Config, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **(kwargs | {"http": protocol}))

    monkeypatch.setattr(uvicorn.Config, "__init__", chosen)
    with Sandbox() as sandbox, httpx.Client(base_url=sandbox.url, trust_env=False, timeout=5) as http:
        assert post(http, "sendSms", SEND).text == "A\n100001\n"  # the dropped connection is a kept one
        sandbox.gateway.faults.replace(scripted=[Fault("response_lost"), Fault("lost_before"), Fault("truncated")])
        for accepted in (2, 2):
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)) as caught:
                post(http, "sendSms", SEND)
            assert "message body" not in str(caught.value)
            assert len(sandbox.gateway.messages) == accepted
        with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
            post(http, "sendSms", SEND)
        assert len(sandbox.gateway.messages) == 3
        assert post(http, "sendSms", SEND).text == "A\n100004\n"
        assert [r.status for r in sandbox.gateway.requests] == [200, None, None, 200, 200]


def test_no_byte_of_a_lost_response_arrives(mymsp_sandbox: Sandbox) -> None:
    mymsp_sandbox.gateway.faults.replace(scripted=[Fault("response_lost")])
    address = ("127.0.0.1", int(mymsp_sandbox.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=5) as client:
        client.sendall(b"POST /external/sendSms HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(SEND))
        client.sendall(SEND[:10])
        time.sleep(0.05)  # a form in two packets is put together
        client.sendall(SEND[10:])
        assert client.recv(100) == b""
    assert len(mymsp_sandbox.gateway.messages) == 1


def test_faults_over_http(http: httpx.Client, mymsp_sandbox: Sandbox) -> None:
    plan = http.put(
        "/_sandbox/faults",
        json={
            "seed": 3,
            "random": [{"kind": "empty", "probability": 0.5, "endpoints": ["getMsgReceived"]}],
            "scripted": [
                {"kind": "error_before", "status": 500},
                {"kind": "error_after", "status": 502},
                {"kind": "rate_limited", "retry_after_s": 1},
                {"kind": "html"},
                {"kind": "empty"},
                {"kind": "cut_short"},
                {"kind": "refuse", "code": 12},
                {"kind": "slow", "delay_s": 0.2},
            ],
        },
    )
    assert plan.status_code == 200
    assert len(http.get("/_sandbox/faults").json()["scripted"]) == 8
    responses = [post(http, "sendSms", SEND) for _ in range(8)]
    assert [a.status_code for a in responses] == [500, 502, 429, 200, 200, 200, 200, 200]
    assert responses[2].headers["retry-after"] == "1"
    assert responses[3].headers["content-type"].startswith("text/html")
    assert [a.text for a in responses[4:]] == ["", "A", "N\n12\n", "A\n100004\n"]
    assert responses[7].elapsed.total_seconds() >= 0.2
    assert http.post("/_sandbox/faults", json={"kind": "empty", "times": 2}).json()["scripted"][0]["times"] == 2
    assert http.get("/_sandbox/faults").json()["seed"] == 3
    struck = http.get("/_sandbox/requests").json()["faults"]
    assert struck == {
        "error_before": 1,
        "error_after": 1,
        "rate_limited": 1,
        "html": 1,
        "empty": 1,
        "cut_short": 1,
        "refuse": 1,
        "slow": 1,
    }


def test_clock_settings_inbox_and_reset(http: httpx.Client) -> None:
    clock = http.put("/_sandbox/clock", json={"speed": 60, "frozen": True}).json()
    assert (clock["speed"], clock["frozen"]) == (60, True)
    later = http.put("/_sandbox/clock", json={"advance_s": 86400}).json()
    assert later["now"] > clock["now"]
    assert http.get("/_sandbox/clock").json() == http.put("/_sandbox/clock", json={}).json() == later

    settings = http.put("/_sandbox/settings", json={"latency_ms": 80, "accounts": {"demo": {"credits": 1}}}).json()
    assert settings["accounts"]["demo"]["credits"] == 1
    assert "password" not in str(settings)
    assert http.get("/_sandbox/settings").json() == settings
    assert post(http, "sendSms", SEND).elapsed.total_seconds() >= 0.08
    assert post(http, "sendSms", SEND).text == "N\n12\n"

    added = http.post("/_sandbox/inbox", json={"originator": "46701740605", "text": "Ja tack", "prefix": "P"})
    assert (added.status_code, added.json()["message_id"]) == (201, "100002")
    at = "2026-07-01T12:00:00+02:00"
    http.post("/_sandbox/inbox", json={"originator": "46701740606", "text": "x", "received_at": at})
    shown = http.get("/_sandbox/inbox?user=demo").json()["messages"]
    assert [m["text"] for m in shown] == ["Ja tack", "x"]
    assert shown[1]["received_at"] == "2026-07-01T10:00:00.000+00:00"
    assert "2026-07-01 12:00\tdemo\tDEMO\tSMS" in post(http, "getMsgReceived", LOGIN + b"&lastMsgId=100002").text

    assert http.post("/_sandbox/reset").json() == {"status": "ok"}
    assert http.get("/_sandbox/inbox").json() == {"messages": []}
    assert http.get("/_sandbox/ledger").json() == {"messages": []}
    assert http.get("/_sandbox/settings").json()["latency_ms"] == 0


def test_summary_over_http(http: httpx.Client) -> None:
    post(http, "sendSms", SEND)
    post(http, "sendSms", SEND + b"&recipients=ignored")
    post(http, "sendSms", SEND.replace(b"605", b"606"))
    twice = {"msisdn": "46701740605", "text": "Hej på dig", "times": 2}
    once = {"msisdn": "46701740606", "text": "Hej på dig", "times": 1}
    assert http.get("/_sandbox/ledger?summary=true").json() == {
        "messages": 3,
        "cancelled": 0,
        "recipients": 3,
        "distinct": 2,
        "duplicates": [twice],
        "counts": [twice, once],
    }
    assert len(http.get("/_sandbox/ledger?msisdn=46701740606").json()["messages"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "message"),
    [
        ("PUT", "faults", b"{", "not JSON"),
        ("PUT", "faults", b"\xff", "not JSON"),
        ("PUT", "faults", b"[]", "The body: Input should be an object"),
        ("POST", "inbox", rb'{"originator": "1", "text": "\ud800"}', "not JSON"),
        ("PUT", "faults", b'{"sed": 1}', "sed: there is no such field"),
        ("PUT", "faults", b'{"seed": "1"}', "seed: Input should be a valid integer"),
        ("PUT", "faults", b'{"seed": null}', "seed: Input should be a valid integer"),
        ("PUT", "faults", b'{"random": {}}', "random: Input should be a valid array"),
        ("PUT", "faults", b'{"random": [{"kind": "empty"}]}', "random fault has"),
        ("POST", "faults", b'{"kind": "gremlin"}', "Unknown fault"),
        ("PUT", "clock", b'{"speed": "fast"}', "speed: Input should be a valid number"),
        ("PUT", "clock", b'{"speed": 0}', "greater than 0"),
        ("PUT", "clock", b'{"frozen": 1}', "frozen: Input should be a valid boolean"),
        ("PUT", "clock", b'{"advance_s": -1}', "only goes forward"),
        ("PUT", "clock", b'{"now": 1}', "now: there is no such field"),
        ("PUT", "settings", b'{"latency": 1}', "latency: there is no such field"),
        ("POST", "inbox", b'{"text": "x"}', "originator: Field required"),
        ("POST", "inbox", b'{"originator": "1", "text": 1}', "text: Input should be a valid string"),
        (
            "POST",
            "inbox",
            b'{"originator": "1", "text": "x", "kind": null}',
            "kind: Input should be 'SMS', 'VOI' or 'DPN'",
        ),
        (
            "POST",
            "inbox",
            b'{"originator": "1", "text": "x", "received_at": "now"}',
            "received_at: Input should be a valid datetime",
        ),
        ("POST", "inbox", b'{"originator": "1", "text": "x", "color": "now"}', "color: there is no such field"),
    ],
)
def test_bad_json_is_refused(http: httpx.Client, method: str, path: str, body: bytes, message: str) -> None:
    response = http.request(method, f"/_sandbox/{path}", content=body)
    assert response.status_code == 400
    assert message in response.json()["error"]


def test_the_page_escapes_what_strangers_write(http: httpx.Client, mymsp_sandbox: Sandbox) -> None:
    assert "Nothing yet" in http.get("/").text
    post(http, "sendSms", SEND.replace(b"Hej+p%E5+dig", b"<script>x</script>"))
    mymsp_sandbox.gateway.receive(originator="<b>46", text="<img src=x onerror=y>&")
    shown = http.get("/")
    assert shown.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert "<script" not in shown.text
    assert "<img" not in shown.text
    assert "<b>" not in shown.text
    assert "&lt;script&gt;x&lt;/script&gt;" in shown.text


def test_magic_numbers_over_http(http: httpx.Client, mymsp_sandbox: Sandbox) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        post(http, "sendSms", SEND.replace(b"605", b"660"))
    assert post(http, "sendSms", SEND.replace(b"605", b"664")).status_code == 429
    assert post(http, "sendSms", SEND.replace(b"605", b"664")).text.startswith("A\n")
    assert len(mymsp_sandbox.gateway.messages) == 2


def test_it_starts_and_stops_at_once_even_with_a_slow_request() -> None:
    started = time.perf_counter()
    sandbox = Sandbox(speed=10).start()
    assert time.perf_counter() - started < 2  # 0.1 s when nothing else runs
    with pytest.raises(ConfigurationError, match="running already"):
        sandbox.start()
    sandbox.gateway.faults.replace(scripted=[Fault("slow", delay_s=60)])
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            httpx.post(f"{sandbox.base_url}/sendSms", content=SEND, timeout=10, trust_env=False)
        except httpx.TransportError as error:
            failures.append(error)

    idle = httpx.Client(trust_env=False)
    idle.get(f"{sandbox.url}/_sandbox/health")
    waiting = threading.Thread(target=wait)
    waiting.start()
    while not sandbox.gateway.requests:
        time.sleep(0.01)
    stopping = time.perf_counter()
    sandbox.stop()
    sandbox.stop()
    assert time.perf_counter() - stopping < 1.5
    waiting.join(5)
    idle.close()
    assert len(failures) == 1
    with sandbox:  # and again, with what it held
        assert httpx.get(f"{sandbox.url}/_sandbox/health", trust_env=False).json()["messages"] == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.com", ""])
def test_only_loopback(host: str) -> None:
    with pytest.raises(ConfigurationError, match="loopback"):
        Sandbox(host=host).start()
    with pytest.raises(ConfigurationError, match="loopback"):
        serve(host=host)


def test_a_taken_port_is_named() -> None:
    with Sandbox() as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            Sandbox(port=port).start()


def test_serve_ends_with_ctrl_c() -> None:
    import signal

    code = (
        "from prefect_mymsp.sandbox import serve\n"
        "serve(speed=60, on_ready=lambda url: print(url, flush=True))\nprint('done')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx.Client(base_url=url, trust_env=False) as http:
            assert post(http, "sendSms", SEND).text == "A\n100001\n"
            assert http.get("/_sandbox/clock").json()["speed"] == 60
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "done\n", "")
