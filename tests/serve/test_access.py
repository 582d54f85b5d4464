"""Who may ask: names of the host, other sites' pages, the token."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from asked import Api, answering
from click.testing import Result
from serve_pictures import JPEG

from lfdeploy.errors import UsageError
from serve.access import LOOPBACK, Rules, rules_of
from serve.entries import Entry
from serve.server import hello
from serve.state import state_of

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("host", "root_path", "hosts"),
    [
        ("127.0.0.1", "", LOOPBACK),
        ("localhost", "", LOOPBACK),
        ("::1", "", LOOPBACK),
        ("127.0.0.1", "https://pics.example.org/demo", LOOPBACK | {"pics.example.org"}),
        ("127.0.0.1", "/demo", set()),  # a proxy's name is not known
        ("0.0.0.0", "", set()),
        ("192.0.2.7", "", set()),
    ],
)
def test_which_names_are_known(host: str, root_path: str, hosts: set[str]) -> None:
    assert rules_of(host, root_path).hosts == hosts


def test_another_name_is_refused_everywhere_but_for_liveness(entries: dict[str, Entry]) -> None:
    """So that a page elsewhere cannot reach this machine under a name of its own (DNS rebinding)."""
    with answering(state_of(list(entries.values())), rules_of("127.0.0.1", "")) as api:
        for path in ("/", "/v1/artifacts", "/metrics", "/v2", "/gradio_api/info"):
            for host in ("evil.example", "evil.example:80", "localhost.evil.example"):
                assert api("GET", path, Host=host)[0] == 421, (path, host)
            assert api("GET", path, Host="")[0] == 400
            for host in ("localhost", f"localhost:{api.port}", "127.0.0.1:1", "[::1]:7860", "LOCALHOST"):
                assert api("GET", path, Host=host)[0] == 200, (path, host)
        assert api("GET", "/health/live", Host="10.0.0.7")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:7", "Host": "localhost:7"}, 200),
        ({"Origin": "https://out.example", "X_Forwarded_Host": "out.example"}, 200),
        ({"Origin": "http://server", "Host": "server:80"}, 200),
        ({"Origin": "https://server", "Host": "server:443"}, 200),
        ({"Origin": "http://server:80", "Host": "server"}, 200),
        ({"Origin": "http://server", "Host": "Server"}, 200),
        ({"Origin": "http://[::1]:7", "Host": "[::1]:7"}, 200),
        ({"Origin": "http://server:8080", "Host": "server"}, 403),
        ({"Origin": "http://server", "Host": "server:443"}, 403),
        ({"Origin": "http://server:x", "Host": "server:x"}, 403),
        ({"Origin": "http://evil.example/server", "Host": "server"}, 403),
        ({"Origin": "http://server@evil.example", "Host": "server"}, 403),
    ],
)
def test_other_sites_pages_send_nothing(headers: dict[str, str], status: int, api: Api) -> None:
    assert api("POST", "/v1/classify", JPEG, **headers)[0] == status


def test_a_proxy_that_hides_the_port_is_named(api: Api) -> None:
    body = api("POST", "/v1/classify", JPEG, Origin="http://server:8080", Host="server")[2]
    assert b"is for 'server'" in body and b"proxy_set_header Host $http_host" in body


def test_nobody_may_read_answers_from_elsewhere(api: Api) -> None:
    """No CORS header, whoever asks."""
    for method in ("GET", "OPTIONS"):
        _, headers, _ = api(method, "/v1/artifacts", Origin="https://evil.example")
        assert not [name for name in headers if name.startswith("access-control-")]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "frame-ancestors 'self'"
    assert headers["cache-control"] == "no-cache"


def test_a_token_opens_everything_and_liveness_needs_none(entries: dict[str, Entry]) -> None:
    with answering(state_of(list(entries.values())), Rules(token=TOKEN)) as api:
        basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
        for path in ("/", "/v1/artifacts", "/metrics", "/openapi.json", "/v2", "/health/ready"):
            for sent in ("", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Basic !", "Bearer", TOKEN):
                status, headers, body = api("GET", path, Authorization=sent)
                assert status == 401 and "Basic" in headers["www-authenticate"], (path, sent)
                assert TOKEN.encode() not in body
            for sent in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
                assert api("GET", path, Authorization=sent)[0] == 200, (path, sent)
        assert [api("GET", path)[0] for path in ("/health/live", "/v2/health/live")] == [200, 200]


@pytest.mark.parametrize("text", ["", "short", "two words of some length", "\u00e4" * 20, "x" * 501])
def test_what_is_no_token(text: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="must hold one word of 16"):
        rules_of("127.0.0.1", "", tmp_path / "token")


def test_a_token_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        rules_of("127.0.0.1", "", tmp_path / "nowhere")
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert rules_of("127.0.0.1", "", tmp_path / "token").token == TOKEN


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", ""], "--host is empty"),
        (["--host", " "], "--host is empty"),
        (["--token-file", ""], "--token-file is empty"),
        (["--host", "0.0.0.0", "--token-file", ""], "--token-file is empty"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "ship"])
def test_an_empty_variable_takes_no_protection_away(
    command: str, words: list[str], said: str, lf: Callable[..., Result]
) -> None:
    done = lf(command, "nowhere", *words)
    assert done.exit_code == 2 and said in done.output


def test_an_empty_host_is_none_in_python_either() -> None:
    with pytest.raises(UsageError, match="--host is empty"):
        rules_of("", "")


def test_whom_a_server_is_open_to_is_said(entries: dict[str, Entry]) -> None:
    rows = list(entries.values())
    assert "Whoever reaches this address may use it" in hello(rows, "0.0.0.0", 1)
    assert "Whoever" not in hello(rows, "0.0.0.0", 1, token=True) + hello(rows, "127.0.0.1", 1)
