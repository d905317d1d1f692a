"""Every task of this repository, one session each; `nox -l` lists them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nox

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.resolve()
sys.path.insert(0, str(ROOT / "tools"))

import bootstrap  # noqa: E402 - found only now
import find_python  # noqa: E402

# For all that a session starts.
os.environ.update(bootstrap.certificates())

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "docs", "tests"]

DOCS_PYTHON = "3.14"
TESTED_PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
SITE = "docs/_build/html"

# A machine of a CI may stand still for longer than any test waits: there, a test that failed
# runs once more. pytest's summary lists it, and one that fails twice is a failure.
RERUNS = ("--reruns", "1", "-rR") if os.environ.get("CI") else ()

# One more than there are cores: tests wait for kernels, pools and a browser part of their time.
WORKERS = ("-n", str((os.cpu_count() or 1) + 1))

# A file's tests share what they built. Files that hold a slow test begin first (tests/conftest.py),
# so that no core waits for one of them at the end.
PYTEST = ("pytest", *WORKERS, "--dist", "loadfile", "--no-loadscope-reorder", *RERUNS)

# The files of tests that start few builds and kernels, or none: what is found in text and events.
FAST = (
    "architecture",
    "evidence",
    "history",
    "internals",
    "lint",
    "outputs",
    "project",
    "reference",
    "sources",
)

# Which Python each lock is for: the least one that will install it.
LOCKS = {
    "bootstrap": "3.9",
    "docs": DOCS_PYTHON,
    "live": DOCS_PYTHON,
    "readers": TESTED_PYTHONS[0],
    "tests": TESTED_PYTHONS[0],
    "browser": DOCS_PYTHON,
    "jupyter-book": DOCS_PYTHON,
    "lint": TESTED_PYTHONS[0],
    "types": TESTED_PYTHONS[0],
}
# These hold what the project itself depends on, too, with its extra for Sphinx.
WITH_PROJECT = {"docs", "jupyter-book", "live", "tests", "types"}


def environment(
    session: nox.Session, name: str, lock: str, *, python: str = DOCS_PYTHON, project: bool = True
) -> Callable[..., object]:
    """Make `.nox/NAME` hold what `lock` names and nothing else.

    nox's own environments cannot come from an interpreter that is provided only now.

    Parameters
    ----------
    session
        The session that will use it.
    name
        Its folder in `.nox`.
    lock
        The name of a file in `requirements`.
    python
        The version of its interpreter, which is found or provided.
    project
        Install this project as well, as a user would: a wheel of the current source.

    Returns
    -------
    Callable
        Runs a program of the environment, given its name, arguments and further variables.
    """
    folder = ROOT / ".nox" / name
    try:
        uv = bootstrap.tool("uv")
        interpreter = str(find_python.find(python))
    except (bootstrap.BootstrapError, find_python.PythonNotFoundError) as error:
        session.error(str(error))
    session.run(
        *(uv, "venv", "--quiet", "--allow-existing", "--python", interpreter, str(folder)),
        external=True,
    )
    target = ("--quiet", "--python", str(folder))
    # Once and on all cores: else each of many kernels and workers would, page after page.
    compiled = ("--compile-bytecode",) if project else ()
    session.run(
        *(uv, "pip", "sync", *target, *compiled),
        *("--require-hashes", f"requirements/{lock}.txt"),
        external=True,
    )
    if project:
        session.run(
            *(uv, "pip", "install", *target, *compiled, "--no-deps", "--no-build-isolation"),
            *("--reinstall-package", "workercheck", "."),
            external=True,
        )
    path = os.pathsep.join([str(folder / "bin"), str(Path(uv).parent), os.environ["PATH"]])

    def run(program: str, *arguments: str, **environ: str) -> None:
        session.run(
            *(str(folder / "bin" / program), *arguments),
            env={"VIRTUAL_ENV": str(folder), "PATH": path, **environ},
            external=True,
        )

    return run


def run_tests(session: nox.Session, name: str, python: str) -> None:
    """Run the test suite on `python` in the environment `name`."""
    run = environment(session, name, "tests", python=python)
    run(*PYTEST, *session.posargs)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the site and judge it; `-- DIR` builds it elsewhere."""
    out = session.posargs[0] if session.posargs else SITE
    run = environment(session, "docs", "docs")
    try:
        run(
            "sphinx-build",
            "-W",  # a warning is a broken link or a page that lies: fail
            "--keep-going",  # but show all of them, after every page was built
            "-n",  # nitpicky: warn about references that lead nowhere
            *("-b", "html"),
            *("docs/source", out),
        )
    finally:
        # Also after a failed build, whose report says which pages are to blame.
        run("python", "tools/check_workers.py", out)


@nox.session(venv_backend="none", default=False)
def bench(session: nox.Session) -> None:
    """Time the build against stock myst-nb, for the docs; `-- ARGS` go to benchmarks/bench.py."""
    run = environment(session, "bench", "docs")
    run("python", "benchmarks/bench.py", *session.posargs)


@nox.session(name="bench-recorder", venv_backend="none", default=False)
def bench_recorder(session: nox.Session) -> None:
    """Time programs with the recorder and without; `-- ARGS` go to benchmarks/recorder.py."""
    run = environment(session, "bench", "docs")
    run("python", "benchmarks/recorder.py", *session.posargs)


@nox.session(name="docs-live", venv_backend="none", default=False)
def docs_live(session: nox.Session) -> None:
    """Build the site, show it in the browser, and build it again at every change."""
    run = environment(session, "docs-live", "live")
    run("sphinx-autobuild", "--open-browser", "docs/source", SITE)


@nox.session(venv_backend="none", default=False)
def linkcheck(session: nox.Session) -> None:
    """Follow every link to another host, and report those that lead nowhere."""
    run = environment(session, "docs", "docs")
    run(
        "sphinx-build",
        *("-W", "--keep-going", "-n", "-b", "linkcheck"),
        # Links are in the text: nothing has to run for them. The language of a cell that
        # did not run is not known.
        *("-D", "nb_execution_mode=off", "-D", "workercheck_allow_unexecuted=*"),
        *("-D", "suppress_warnings=myst-nb.lexer"),
        *("docs/source", "docs/_build/linkcheck"),
    )


@nox.session(venv_backend="none", default=False)
def browser(session: nox.Session) -> None:
    """Look at every page of the built site in Chromium; `-- ARGS` go to pytest."""
    run = environment(session, "browser", "browser", project=False)
    run("pytest", *WORKERS, "--dist", "worksteal", *RERUNS, "tests_browser", *session.posargs)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the tests on the docs' Python; `-- ARGS` go to pytest."""
    run_tests(session, "tests", DOCS_PYTHON)


def tests_on(python: str) -> None:
    """Define the session that runs the tests on `python`."""

    @nox.session(name=f"tests-{python}", venv_backend="none", default=False)
    def tests_on_python(session: nox.Session) -> None:
        run_tests(session, f"tests-{python}", python)

    tests_on_python.__doc__ = f"Run the tests on Python {python}."


for tested in TESTED_PYTHONS:
    tests_on(tested)


@nox.session(name="tests-fast", venv_backend="none", default=False)
def tests_fast(session: nox.Session) -> None:
    """Run the tests of verdicts and of the lint, in under two minutes; `-- ARGS` go to pytest."""
    run = environment(session, "tests", "tests")
    files = (f"tests/test_{name}.py" for name in FAST)
    run(*PYTEST, *files, *session.posargs)


@nox.session(name="tests-prereleases", venv_backend="none", default=False)
def tests_prereleases(session: nox.Session) -> None:
    """Run the tests with the newest versions of all packages, pre-releases included."""
    run = environment(session, "tests-prereleases", "tests")
    newest = ("--upgrade", "--prerelease", "allow", "--group", "tests", ".[sphinx]")
    folder = str(ROOT / ".nox" / "tests-prereleases")
    session.run(
        *(bootstrap.tool("uv"), "pip", "install", "--quiet", "--python", folder, *newest),
        external=True,
    )
    run(*PYTEST, *session.posargs)


@nox.session(venv_backend="none", default=False)
def dist(session: nox.Session) -> None:
    """Build the wheel and the sdist that a release uploads into `dist`."""
    session.run(
        *(bootstrap.tool("uv"), "build", "--quiet", "--clear", "--out-dir", "dist"),
        *("--build-constraints", "requirements/docs.txt", "--require-hashes"),
        external=True,
    )


@nox.session(venv_backend="none", default=False)
def readers(session: nox.Session) -> None:
    """Run every page as its readers do, on every Python; `-- --help` lists the options."""
    asked = argparse.ArgumentParser(add_help=False)
    asked.add_argument("--python", action="append")
    pythons = asked.parse_known_args(session.posargs)[0].python or TESTED_PYTHONS
    run = environment(session, "docs", "docs")
    tools = str(ROOT / "tools")
    if {"-h", "--help"} & set(session.posargs):
        run("python", "-m", "readers", "--help", PYTHONPATH=tools)
        return
    found = []
    for python in pythons:
        try:
            find_python.find(python)
        except find_python.PythonNotFoundError as error:
            session.warn(f"not tried on Python {python}: {error}")
            continue
        try:
            environment(session, f"readers-{python}", "readers", python=python, project=False)
        except nox.command.CommandFailed:
            session.warn(f"not tried on Python {python}: a package cannot be installed, see above")
            continue
        found += ["--environment", f"{python}=.nox/readers-{python}"]
    run("python", "-m", "readers", *found, *session.posargs, PYTHONPATH=tools)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check the style of the code and the schemas of the configuration files."""
    run = environment(session, "lint", "lint", project=False)
    run("ruff", "check")
    run("ruff", "format", "--check")
    run("codespell")
    schema = ("check-jsonschema", "--builtin-schema")
    run(*schema, "vendor.readthedocs", ".readthedocs.yaml")
    workflows = [str(file) for file in Path(".github/workflows").glob("*.yml")]
    run(*schema, "vendor.github-workflows", *workflows)
    run(*schema, "vendor.github-actions", "action.yml")
    run(*schema, "vendor.dependabot", ".github/dependabot.yml")
    run("zizmor", "--offline", "--quiet", ".github", "action.yml")
    run(*schema, "vendor.citation-file-format", "CITATION.cff")
    run("pre-commit", "validate-config")
    run("repo-review", "--show", "err", ".")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check the types of everything in tools."""
    run = environment(session, "types", "types", project=False)
    run("mypy")


@nox.session(venv_backend="none", default=False)
def lock(session: nox.Session) -> None:
    """Lock every dependency group anew, at the newest versions, into requirements."""
    for group, python in LOCKS.items():
        session.run(
            *(bootstrap.tool("uv"), "pip", "compile", "--quiet", "--upgrade"),
            *(["pyproject.toml", "--extra", "sphinx"] if group in WITH_PROJECT else []),
            *("--group", group, "--output-file", f"requirements/{group}.txt"),
            "--generate-hashes",  # what is installed is what was locked
            "--universal",  # one file for every platform and Python
            *("--python-version", python),
            "--no-emit-index-url",  # the machine's own index is nobody else's business
            *("--custom-compile-command", "nox -s lock"),
            external=True,
        )
