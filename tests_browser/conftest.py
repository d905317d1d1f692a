"""What the browser's tests share: the built site, a server for it, one browser, a visit."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Error, sync_playwright
from visit import Visit

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
BROWSERS = ("chromium", "google-chrome", "chromium-browser")  # Debian, Google, Ubuntu
HOW_TO_INSTALL = (
    "no Chromium: install it (Debian and Ubuntu: apt-get install chromium) or Google Chrome"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--site",
        type=Path,
        default=ROOT / "docs" / "_build" / "html",
        help="the built site (default: %(default)s)",
    )


def pages(site: Path) -> list[str]:
    """List every page of the site, as its address below the root."""
    found = (path.relative_to(site) for path in site.rglob("*.html"))
    return sorted(str(path) for path in found if path.parts[0] != "_static")


def pytest_configure(config: pytest.Config) -> None:
    site = config.getoption("site")
    if not (site / "index.html").is_file():
        raise pytest.UsageError(f"{site} holds no built site: run `nox -s docs` first")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "docname" in metafunc.fixturenames:
        addresses = pages(metafunc.config.getoption("site"))
        metafunc.parametrize("docname", [address.removesuffix(".html") for address in addresses])


class Handler(SimpleHTTPRequestHandler):
    """Serves files without telling about each."""

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine alone; gives its address."""
    handler = functools.partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def site(pytestconfig: pytest.Config) -> Iterator[str]:
    """Address of the built site."""
    with serve(pytestconfig.getoption("site")) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=path,
                # Where none is on the PATH, playwright knows where Chrome is on macOS.
                channel=None if path else "chrome",
                # It refuses to run as root with its sandbox.
                args=["--no-sandbox"] if os.geteuid() == 0 else [],
            )
        except Error as error:
            pytest.exit(f"{HOW_TO_INSTALL}\n{error}" if not path else str(error), returncode=2)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Return a function that opens a page: ``visit(address, width=…, scheme=…)``."""
    visits: list[Visit] = []

    def open_page(address: str, **options: object) -> Visit:
        visits.append(Visit(browser, address, **options))
        return visits[-1]

    yield open_page
    for one in visits:
        one.close()
