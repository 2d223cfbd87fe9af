"""`costtrace ui` over a real socket: the figures of `report`, access only for those who may, escaped names."""

import base64
import hashlib
import http.client
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import ExitStack, closing
from datetime import UTC
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from costtrace_ui import svg
from costtrace_ui.web.command import token, ui
from costtrace_ui.web.responses import Responder
from costtrace_ui.web.server import AT_ONCE, AccessPolicy, Server, load_style
from honest_ledger import write

from costtrace.cli.app import cli
from costtrace.core.errors import CosttraceError

SECRET = "0123456789abcdef-" + "secret"
NASTY = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e"
PATHS = ("/", "/tenants", "/requests", "/devices", "/balance", "/requests/record-00004", "/nothing")
EXACT = ("cost_nano", "gpu_ns", "energy_uj", "output_tokens", "requests")


class Tags(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


class Client:
    """Asks a server."""

    def __init__(self, server):
        self.server, self.port = server, server.server_address[1]

    def ask(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer, answer.read().decode()
        finally:
            connection.close()

    def page(self, path):
        answer, body = self.ask(path)
        assert answer.status == 200, body
        return body


def serve(home, **policy):
    server = Server(
        AccessPolicy(**{"address": "127.0.0.1", "token": "", **policy}), 0, Responder(home, load_style(), UTC)
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    return server, thread


@pytest.fixture
def serving():
    """Starts servers, and ends them."""
    running = []

    def start(home, **policy):
        running.append(serve(home, **policy))
        return Client(running[-1][0])

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write(home)
    return home


@pytest.fixture
def client(home, serving):
    return serving(home)


def of_command(home, *words):
    done = CliRunner().invoke(cli, [*words, "--home", str(home), "--format", "json"], catch_exceptions=False)
    return done.stdout


def lines(page, table):
    """The exact figures of each line of the tables of that name, one list a table."""
    tables = []
    for tag, attributes in Tags(page).tags:
        if tag == "table":
            tables.append([])
            wanted = attributes.get("data-name") == table
        if tag == "tr" and "data-kind" in attributes and wanted:
            figures = {name: attributes.get(f"data-{name.replace('_', '-')}") for name in EXACT}
            exact = {name: None if value is None else int(value) for name, value in figures.items()}
            tables[-1].append((attributes["data-kind"], *exact.values()))
    return [rows for rows in tables if rows]


@pytest.mark.parametrize("over", ["all", "5m"])
def test_the_sums_on_the_page_are_those_of_report(home, client, over):
    page = client.page(f"/tenants?over={over}")
    since, until = re.search(r"--since (\S+) --until (\S+) ", Tags(page).text).groups()
    limits = () if over == "all" else ("--since", since, "--until", until)
    due = []
    for by in ("tenant", "model", "engine"):
        rows = json.loads(of_command(home, "report", "--by", by, *limits))["summary"]
        due.append(sorted([(row["kind"], *(row[name] for name in EXACT)) for row in rows], key=repr))
    # Lines of one kind in several currencies have no order of their own.
    assert [sorted(rows, key=repr) for rows in lines(page, "summary")] == due
    everything = [row["cost_nano"] for row in rows if row["kind"] == "everything" and row["currency"]]
    tiles = re.findall(r'<data value="(\d+)">', client.page(f"/?over={over}"))
    assert [int(value) for value in tiles] == everything


def test_the_chart_is_of_the_same_money(home):
    from costtrace_ui.live.figures import totals
    from costtrace_ui.live.query import cost_by_bucket, read_snapshot

    from costtrace.ledger.reader import open_ledger

    with open_ledger(home) as store:
        snapshot = read_snapshot(store, 3_600 * 10**9, 1)
        for most in (3, 48):
            _, points = cost_by_bucket(store, snapshot.period, most)
            known = {line.currency: line.cost_nano for line in totals(snapshot) if not line.cost_unknown_ns}
            assert known, "no currency is known in full"
            for currency, nano in known.items():
                assert sum(whole for _, point_currency, _, whole in points if point_currency == currency) == nano


def test_an_engine_that_ends_amid_a_window_does_not_raise_the_charts_cost(home, tmp_path):
    from costtrace_ui.live.query import cost_by_bucket

    from costtrace.ledger.queries import bounds
    from costtrace.ledger.reader import open_ledger

    (tmp_path / "ledger.sqlite").write_bytes((home / "ledger.sqlite").read_bytes())
    widths = []
    for shortened in (False, True):
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection, connection:
            if shortened:
                last = "(SELECT max(window_ns) FROM meter)"
                assert connection.execute(f"UPDATE meter SET end_ns = start_ns + 16 WHERE window_ns = {last}").rowcount
        with open_ledger(tmp_path) as store:
            widths.append(cost_by_bucket(store, bounds(store), 10**6)[0])
    assert widths[0] == widths[1] > 10**9


@pytest.mark.parametrize("identifier", ["record-00007", "req-record-00007", f"{7:032x}"])
def test_a_request_as_json_is_what_the_command_prints(home, client, identifier):
    answer, body = client.ask(f"/v1/requests/{identifier}")
    assert (answer.status, answer.getheader("Content-Type")) == (200, "application/json")
    assert body == of_command(home, "requests", "--id", identifier)


def test_an_unknown_request_is_404_and_says_how_one_is_named(client):
    answer, body = client.ask("/v1/requests/nobody%2F1")
    assert answer.status == 404
    assert "no request 'nobody/1' is in the ledger" in json.loads(body)["error"]
    assert client.ask("/v1/other")[0].status == 404
    assert client.ask("/requests/nobody")[0].status == 404


def test_a_request_has_the_reasons_that_explain_gives(home, client):
    text = Tags(client.page("/requests/record-00004")).text
    (explained,) = json.loads(of_command(home, "explain", "record-00004"))["explanations"]
    # The page compares with fewer of the newest requests than the command; here both have all of them.
    assert all(sentence in text for sentence in explained["sentences"])


def test_requests_are_searched_filtered_and_sorted(client):
    records = re.findall(
        r'href="/requests/(record-\d+)"', client.page("/requests?over=all&q=LARGE&tenant=blue&sort=gpu")
    )
    times = [
        row[2] for row in lines(client.page("/requests?over=all&tenant=blue&model=m-large&sort=gpu"), "requests")[0]
    ]
    assert len(records) == len(times) > 10
    assert times == sorted(times, reverse=True)
    (record,) = re.findall(r'href="/requests/(record-\d+)"', client.page("/requests?over=5m&q=req-record-00011"))
    assert record == "record-00011"
    assert "Nothing here" in client.page("/requests?over=all&q=nobody-has-this")


def test_the_trial_balance_is_in_balance_and_names_what_is_off(client, serving, tmp_path):
    assert "in balance</p>" in client.page("/balance")
    with sqlite3.connect(write(tmp_path)) as connection:
        connection.execute("UPDATE posting SET device_nano = device_nano + 1 WHERE posting_id = 1")
    connection.close()
    broken = serving(tmp_path).page("/balance")
    assert "NOT in balance: " in broken
    assert "posting 1 (" in broken


@pytest.mark.parametrize(
    "path", [*PATHS, "/requests?q={0}&tenant={0}&model={0}&over={0}&sort={0}", "/{0}", "/requests/{0}"]
)
def test_no_name_becomes_a_tag_an_attribute_or_a_direction(serving, tmp_path, path):
    with sqlite3.connect(write(tmp_path)) as connection:
        for table in ("posting", "usage"):
            connection.execute(f"UPDATE {table} SET tenant = ?, model = ?", (NASTY, NASTY))
        connection.execute("UPDATE usage SET request_id = ?, finish_reasons = ?", (NASTY, json.dumps([NASTY])))
        connection.execute("UPDATE engine SET device_name = ?, model = ?", (NASTY, NASTY))
    connection.close()
    _, body = serving(tmp_path).ask(path.format(quote(NASTY)))
    page = Tags(body)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not {"img", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert not {name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"}
    assert not set("\x1b\u202e") & set(body)


@pytest.mark.parametrize("path", PATHS)
def test_a_page_loads_nothing_and_its_policy_allows_its_own_style_and_script_only(client, path):
    answer, body = client.ask(path)
    addresses = [
        attributes[name]
        for _, attributes in Tags(body).tags
        for name in ("href", "src", "action")
        if name in attributes
    ]
    assert addresses
    assert all(
        (address.startswith(("/", "#")) and not address.startswith("//")) or address == "data:,"
        for address in addresses
    )
    policy = answer.getheader("Content-Security-Policy")
    for tag in ("style", "script"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", body, re.DOTALL)
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert answer.getheader("Cache-Control") == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_only_get_and_head_are_answered(client, method):
    answer, body = client.ask("/", method)
    assert (answer.status, answer.getheader("Allow")) == (405, "GET, HEAD")
    assert "<html" not in body


def test_head_has_the_length_and_no_body(client):
    path = "/v1/requests/record-00007"
    # By hand: a client's library does not look for a body that must not be there.
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: connection.recv(65_536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert f"Content-Length: {len(client.page(path))}".encode() in head
    assert body == b""


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:9000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("costs.example.org", 200),
        ("evil.example", 421), ("127.0.0.1.evil.example", 421), ("localhost.evil.example:80", 421), ("10.0.0.1", 421),
        ("", 421),
    ],
)  # fmt: skip
def test_a_foreign_host_name_gets_nothing(home, serving, host, status):
    client = serving(home, names=["costs.example.org"])
    answer, body = client.ask("/devices", Host=host)
    assert answer.status == status
    assert ("GPU-1" in body) == (status == 200)


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {SECRET}", 200), (basic("anybody", SECRET), 200), (basic("", SECRET), 200),
        ("", 401), (SECRET, 401), ("Bearer", 401), (f"Bearer {SECRET[:-1]}", 401), (f"Bearer {SECRET}x", 401),
        (basic(SECRET, ""), 401), ("Basic ****", 401), (f"Digest {SECRET}", 401),
    ],
)  # fmt: skip
def test_with_a_token_nothing_is_shown_without_it(home, serving, header, status):
    answer, body = serving(home, token=SECRET).ask("/v1/requests/record-00007", Authorization=header)
    assert answer.status == status
    assert ("record-00007" in body) == (status == 200)
    assert SECRET not in body


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.1.2.3"])
def test_it_does_not_listen_beyond_loopback_without_a_token(address):
    with pytest.raises(CosttraceError, match="COSTTRACE_UI_TOKEN_FILE"):
        AccessPolicy(address, "").check()
    with pytest.raises(CosttraceError, match="shorter"):
        AccessPolicy(address, "short").check()
    AccessPolicy(address, SECRET).check()


def test_the_token_comes_from_a_file_that_nobody_else_can_read_and_never_from_the_command_line(home, tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o640)
    with pytest.raises(CosttraceError, match="chmod 600"):
        token(file)
    file.chmod(0o600)
    assert token(file) == SECRET
    assert not [option for option in ui.params if "token" in option.name]
    done = CliRunner().invoke(cli, ["ui", "--home", str(home), "--bind", "0.0.0.0"])
    assert "COSTTRACE_UI_TOKEN_FILE" in str(done.exception)


def test_a_ledger_that_went_away_is_reported_and_the_server_lives_on(tmp_path, serving):
    path = write(tmp_path)
    client = serving(tmp_path)
    moved = path.rename(tmp_path / "elsewhere")
    answer, body = client.ask("/")
    assert answer.status == 503
    assert "there is no ledger at" in body
    assert client.ask("/v1/requests/x")[0].status == 503
    moved.rename(path)
    assert client.ask("/")[0].status == 200


def test_a_query_without_end_is_refused(client):
    answer, body = client.ask("/requests?" + "&".join(f"f{k}=1" for k in range(50)))
    assert answer.status == 400
    assert "Too much" in body


def test_during_an_audit_the_balance_page_says_so_and_takes_no_slot(home, serving):
    client = serving(home)
    with client.server.responder._auditing:
        for _ in range(AT_ONCE + 1):
            assert "being added up" in client.page("/balance")
        assert "<h1>" in client.page("/tenants")
    assert "in balance</p>" in client.page("/balance")


def test_a_request_beyond_those_answered_at_once_gets_a_503_and_when_to_come_again(home, serving):
    client = serving(home)
    with ExitStack() as taken:
        for _ in range(AT_ONCE):
            taken.enter_context(client.server.slots)
        answer, body = client.ask("/tenants")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert "too many requests at once" in body
    assert "<h1>" in client.page("/tenants")


def test_more_connections_than_it_serves_are_closed_and_a_page_gets_through(home, serving):
    client = serving(home)
    client.server.most, client.server.least_s = 4, 0.0
    with ExitStack() as idle:
        for _ in range(50):
            idle.enter_context(closing(socket.create_connection(("127.0.0.1", client.port), timeout=30)))
        assert "<h1>" in client.page("/tenants")
        assert len(client.server._open) <= 4


def test_six_series_can_be_distinguished_by_their_markers_alone():
    assert len({re.sub(r" s\d", "", svg.marker(0, 0, 4, number)) for number in range(6)}) == 6


def test_an_empty_ledger_has_pages_too(tmp_path, serving):
    write(tmp_path, plans=())
    client = serving(tmp_path)
    for path in ("/", "/?over=all", "/tenants", "/requests", "/devices", "/balance"):
        assert "<h1>" in client.page(path)


def test_the_command_prints_its_address_serves_and_ends_on_ctrl_c(home):
    script = Path(sys.executable).parent / "costtrace"
    words = [script, "ui", "--home", str(home), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/devices")
            assert b"GPU-1" in connection.getresponse().read()
            connection.close()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
