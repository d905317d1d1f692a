"""On a network with its own certificate authority, the set-up trusts whom the system trusts."""

from __future__ import annotations

import http.server
import os
import shutil
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from conftest import ROOT

sys.path.append(str(ROOT / "tools"))

import bootstrap

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LOCK = f"lesson==1.0 --hash=sha256:{'0' * 64}\n"

# Each asks the index, or the mirror of interpreters, in the way of `make docs`.
ASKS = {
    "pip": [sys.executable, "tools/bootstrap.py"],
    "python download": [
        *(sys.executable, "-c"),
        "import sys; sys.path.append('tools'); import find_python; find_python.from_uv('3.13')",
    ],
    "nox and uv": ["nox", "--session", "types"],
}


class Nothing(http.server.BaseHTTPRequestHandler):
    """Of an index of nothing: who asks it for a path has trusted it."""

    server: Index

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


class Index(http.server.ThreadingHTTPServer):
    """An index whose certificate is of an authority that only its own network knows."""

    def __init__(self) -> None:
        super().__init__(("localhost", 0), Nothing)
        self.authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost").configure_cert(context)
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )
        self.address = f"https://localhost:{self.server_port}"
        self.asked: list[str] = []
        self.refused: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if isinstance(error, ssl.SSLError):
            self.refused.append(error.reason)


@pytest.fixture
def index() -> Iterator[Index]:
    with Index() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def environment(address: str, tmp_path: Path) -> dict[str, str]:
    """The variables of a user who has set nothing but the address of the index."""
    own = ("PIP_", "UV_", "SSL_", "NOX", "VIRTUAL_ENV")
    bundles = {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(own) and k not in bundles}
    tools = str(Path(bootstrap.tool("uv")).parent)
    return {
        **kept,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), tools, os.environ["PATH"]]),
        "NO_PROXY": "localhost",
        "no_proxy": "localhost",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": address,
        "PIP_RETRIES": "0",
        "UV_DEFAULT_INDEX": address,
        "UV_HTTP_RETRIES": "0",
        "UV_NO_CACHE": "1",
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_INSTALL_DIR": str(tmp_path / "pythons"),
        "UV_PYTHON_INSTALL_MIRROR": address,
    }


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "unknown"])
@pytest.mark.parametrize("tool", ASKS)
def test_whom_the_system_trusts_is_trusted(
    tool: str, trusted: bool, index: Index, tmp_path: Path
) -> None:
    store = tmp_path / "system.pem"
    if trusted:
        index.authority.cert_pem.write_to_path(str(store))
    tree = tmp_path / "tree"
    (tree / "tools").mkdir(parents=True)
    (tree / "requirements").mkdir()
    # The same set-up on a system that keeps its authorities elsewhere.
    for name in ("bootstrap.py", "debian.py", "find_python.py"):
        text = (ROOT / "tools" / name).read_text()
        for file in bootstrap.AUTHORITIES:
            text = text.replace(str(file), str(store))
        (tree / "tools" / name).write_text(text)
    text = (ROOT / "noxfile.py").read_text()
    (tree / "noxfile.py").write_text(
        text.replace('DOCS_PYTHON = "3.14"', f'DOCS_PYTHON = "{PYTHON}"')
    )
    for lock in ("bootstrap", "types"):
        (tree / "requirements" / f"{lock}.txt").write_text(LOCK)

    variables = environment(index.address, tmp_path)
    if tool == "python download":
        variables["UV_PYTHON_PREFERENCE"] = "only-managed"
    command = ASKS[tool]
    if not shutil.which(command[0], path=variables["PATH"]):
        pytest.skip(f"{command[0]} runs from elsewhere")
    done = subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert bool(index.asked) == trusted, said
    assert trusted or "ALERT_UNKNOWN_CA" in " ".join(index.refused), (index.refused, said)


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    system = tmp_path / "system.pem"
    system.touch()
    monkeypatch.setattr(bootstrap, "AUTHORITIES", (tmp_path / "absent.pem", system))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    both = {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
    assert bootstrap.certificates() == dict.fromkeys(both, str(system))
    monkeypatch.setenv("SSL_CERT_FILE", "mine.pem")
    assert bootstrap.certificates() == dict.fromkeys(both, "mine.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "other.pem")
    assert bootstrap.certificates()["REQUESTS_CA_BUNDLE"] == "other.pem"


def test_machine_without_a_store_is_left_to_what_the_tools_carry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "AUTHORITIES", ())
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert bootstrap.certificates() == {}
    monkeypatch.setattr(sys, "platform", "darwin")
    assert bootstrap.certificates() == {"UV_SYSTEM_CERTS": "true"}
