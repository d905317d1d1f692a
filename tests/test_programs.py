"""Pages as notebooks and scripts: what the conversion writes, and that a plain Python runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, Site

sys.path.append(str(ROOT / "docs" / "extensions"))

import programs
import prose
import script
from script import Cell

CONF = f"""
import sys
sys.path.insert(0, {str(ROOT / "docs" / "extensions")!r})
extensions = ["myst_nb", "workercheck", "programs", "readers_table"]
"""
START_METHOD = "import multiprocessing as m; m.set_start_method({!r})\n"


def convert(*cells: str, tags: str = "") -> str:
    marked = frozenset(tags.split())
    return script.convert([Cell(source, 1, marked) for source in cells])


def run(
    text: str, folder: Path, *, start_method: str = "", name: str = "page.py"
) -> subprocess.CompletedProcess[str]:
    """Run a script as a reader does, in a folder of its own, with no Jupyter near."""
    (folder / name).write_text(text)
    start = folder / "start"
    start.mkdir(exist_ok=True)
    (start / "sitecustomize.py").write_text(
        START_METHOD.format(start_method) if start_method else ""
    )
    return subprocess.run(
        [sys.executable, name],
        cwd=folder,
        # MPI, which adaptive imports where it is installed, wants a home.
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(start), "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("await task", "loop.run_until_complete(task)"),
        ("await (task)", "loop.run_until_complete((task))"),
        ("x, y = await a(), await b(1)", "loop.run_until_complete(a()), loop.run_until_complete(b"),
        ("print('ü', await a())", "print('ü', loop.run_until_complete(a()))"),
        ("f'{await a()}'\nx = 1", "f'{loop.run_until_complete(a())}'"),
        ("await a() + 1", "show(loop.run_until_complete(a()) + 1)"),
        ("r = adaptive.Runner(x, goal=1)", "r = adaptive.Runner(x, goal=1, ioloop=loop)"),
        ("adaptive.Runner(\n    x, **o,\n);", "adaptive.Runner(\n    x, **o, ioloop=loop,\n)"),
        ("r = Runner(x, ioloop=mine)", "r = Runner(x, ioloop=mine)"),
        ("r = asyncio.Runner(x)", "r = asyncio.Runner(x)"),
        ("async def f():\n    await x", "async def f():\n    await x"),
        ("async def f():\n    Runner(x)", "async def f():\n    Runner(x)"),
        ("1 + 1", "show(1 + 1)"),
        ("1 + 1;", "%%\n1 + 1\n"),
        ("(\n    1 + 1\n)", "show(\n    1 + 1\n)"),
        ("(1).real", "show((1).real)"),
        ("print(1)", "%%\nprint(1)"),
        ("display(x)", "%%\nshow(x)"),
        ("if x:\n    display(await x)", "    show(loop.run_until_complete(x))"),
        ("x = 1", "%%\nx = 1"),
        ("def f():\n    print(1)\n\n\nf()", "\nf()"),
        ("def f():\n    return 1\n\n\nf()", "\nshow(f())"),
        ("runner.live_info()", "print(runner.status())  # in a notebook: runner.live_info()"),
        ("runner.live_plot(\n    n=1)", "# runner.live_plot(\n#     n=1)\n# (in a notebook)"),
        ("adaptive.notebook_extension()", "# adaptive.notebook_extension() (in a notebook)"),
        (
            "import holoviews as hv\nadaptive.notebook_extension()",
            'hv.extension("bokeh")  # in a notebook: adaptive.notebook_extension()',
        ),
        (
            "adaptive.notebook_extension()\nlearner.plot()",
            'holoviews.extension("bokeh")  # in a notebook: adaptive.notebook_extension()',
        ),
        ("adaptive.notebook_extension()\nlearner.plot()", "import holoviews\n"),
        ("%time x = f()", "%%\nx = f()"),
        ("%%time\nf()", "# %%time (in a notebook)\nshow(f())"),
        ("%matplotlib inline\nx = 1", "# %matplotlib inline (in a notebook)\nx = 1"),
        ("!ls -l", "subprocess.run('ls -l', shell=True)"),
        ("x = '''\n%time\n'''", "x = '''\n%time\n'''"),
    ],
)
def test_cell(page: str, expected: str) -> None:
    assert expected in convert(page)


def test_the_scripts_own_names_are_none_of_the_pages() -> None:
    text = convert("loop = show = 1", "await task", "1 + 1")
    assert "event_loop.run_until_complete(task)" in text
    assert "show_value(1 + 1)" in text


def test_script_runs_what_only_a_notebook_can(tmp_path: Path) -> None:
    text = convert(
        "import asyncio\n\n\nasync def count(n):\n    for i in range(n):\n        yield i",
        "async for i in count(2):\n    print('for', i)\ni",
        "async with asyncio.timeout(5):\n    await asyncio.sleep(0)\n    x = 'with'\nprint(x)",
        "task = asyncio.create_task(asyncio.sleep(0, 'task'))",
        "await task",
        "[x async for x in count(3)]",
        "print(await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2)))",
        "%%writefile written.py\nquoted = '''a\\nb'''\nother = \"\"\"c\"\"\"",
        "import written\n\nwritten.quoted + written.other",
        "text = '''one\ntwo'''\nif text:\n    await asyncio.sleep(0)\ntext",
    )
    done = run(text, tmp_path)
    assert "" == done.stderr
    assert [
        "for 0",
        "for 1",
        "1",
        "with",
        "'task'",
        "[0, 1, 2]",
        "[1, 2]",
        r"'a\nbc'",
        r"'one\ntwo'",
    ] == done.stdout.splitlines()


def test_cell_that_fails_on_purpose_prints_its_error_and_the_script_goes_on(tmp_path: Path) -> None:
    cells = ("text = '''a\nb'''\n\ndef half(x):\n    return x / 0", "half(1)", "print('after')")
    text = script.convert(
        [
            Cell(cells[0], 1),
            Cell(cells[1], 1, frozenset({"raises-exception"})),
            Cell(cells[2], 1),
        ]
    )
    done = run(text, tmp_path)
    assert ("ZeroDivisionError: division by zero\nafter\n", 0) == (done.stdout, done.returncode)
    # The same without the tag ends the script.
    assert 1 == run(convert(*cells), tmp_path).returncode


def test_definitions_and_strings_keep_their_place_around_a_try() -> None:
    text = convert("import os\n\n\nx = '''a\n  b'''\nos.abort(x)", tags="expect-worker-error")
    assert "import os\n" in text
    assert "try:\n    x = '''a\n  b'''\n" in text


LOKY_PAGE = (
    "import adaptive",
    "def square(x):\n    return x**2",
    "runner = adaptive.Runner(adaptive.Learner1D(square, (0, 1)), npoints_goal=5)\n"
    "await runner.task",
    "runner.status()",
)


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_script_without_a_guard_works_with_loky(tmp_path: Path, start_method: str) -> None:
    pytest.importorskip("adaptive")
    text = convert(*LOKY_PAGE)
    assert "__main__" not in text
    done = run(text, tmp_path, start_method=start_method)
    assert ("'finished'\n", "", 0) == (done.stdout, done.stderr, done.returncode)


POOL_PAGE = (
    "from concurrent.futures import ProcessPoolExecutor",
    "text = '''one\ntwo'''",
    "with ProcessPoolExecutor(1) as pool:\n    print(pool.submit(len, text).result())",
)


def test_script_with_a_process_pool_stands_behind_a_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = convert(*POOL_PAGE)
    assert 'if __name__ == "__main__":\n' in text
    done = run(text, tmp_path, start_method="spawn")
    assert ("7\n", "") == (done.stdout, done.stderr)
    monkeypatch.setattr(script.syntax, "IMPORTS_MAIN_AGAIN", frozenset())
    unguarded = run(convert(*POOL_PAGE), tmp_path, start_method="spawn")
    assert "bootstrapping phase" in unguarded.stderr


def test_prose() -> None:
    text = prose.plain(
        "(here)=\n# Title\n\n:::{admonition} Read *this*\n:class: note\nBecause\n\nof it.\n:::\n"
        "A [page](other.md#part), {py:class}`~adaptive.Runner`, `[x](y)` and"
        " [there](https://example.org).\n\n```{toctree}\n:hidden:\nother\n```\n\n"
        "```{code-block} console\n$ ls\n```\n:::{container} way\n1. [On](other.md).\n:::\n",
        lambda target: f"https://docs.example/{target}",
    )
    assert (
        "# Title\n\n> **Read *this***\n>\n> Because\n>\n> of it.\n"
        "A [page](https://docs.example/other.md#part), `Runner`, `[x](y)` and"
        " [there](https://example.org).\n\n\n```console\n$ ls\n```\n1. [On](https://docs.example/other.md)."
    ).replace("\n\n\n", "\n\n") == text
    assert "A page." == prose.plain("A [page](other.md).", lambda target: "")


# -- The site -------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("adaptive")
    site = Site(tmp_path_factory.mktemp("programs"))
    site.conf(CONF)
    (site.source / "how-to").mkdir()
    page = (ROOT / "docs/source/how-to/functions-loky-cannot-load.md").read_text()
    (site.source / "how-to" / "functions-loky-cannot-load.md").write_text(page)
    header = (
        'readers:\n- python: "<3.14"\n  form: script\n  start-method: spawn\n'
        "  reason: It wants <more>.\n- section: Second\n  reason: It needs the first.\n"
    )
    site.write(
        "page",
        text=f"---\nfile_format: mystnb\nkernelspec:\n  name: python3\n{header}---\n\n"
        "# A page\n\nWords.\n\n```{code-cell}\nimport adaptive, math\n```\n\n"
        "And more.\n\n```{code-cell}\ntau = 2 * math.pi\n```\n\n"
        "## First\n\n```{code-cell}\nx = math.pi\n```\n\n"
        "## Second\n\n```{code-cell}\n:tags: [expect-worker-error]\nprint(x)\n```\n",
    )
    site.write("prose", text="# Prose\n")
    build = site.build("-D", "nb_execution_mode=off", "-D", "workercheck_allow_unexecuted=*")
    assert 0 == build.status, build.log
    options = ("-D", "nb_execution_mode=off", "-D", "workercheck_allow_unexecuted=*")
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-b", "dummy", *options, "source", "dummy"],
        cwd=site.root,
        check=True,
        capture_output=True,
    )
    return site.root


def test_page_links_its_programs_and_says_where_it_does_not_work(built: Path) -> None:
    html = (built / "html" / "page.html").read_text()
    for suffix, form in ((".ipynb", "notebook"), (".py", "script")):
        assert f'download href="page{suffix}">{form}</a>' in html
        assert (built / "html" / f"page{suffix}").is_file()
    assert (
        "This page does not work as a script on Python before 3.14 with spawn as the start method: "
        "It wants &lt;more&gt;."
    ) in html
    assert "The section “Second” does not work by itself: It needs the first." in html
    assert html.index("<h1>") < html.index('class="programs"') < html.index("Words.")
    for docname in ("index", "prose"):
        assert "Run this page" not in (built / "html" / f"{docname}.html").read_text()
        assert not (built / "html" / f"{docname}.py").exists()


def test_script_names_what_it_imports_and_no_more(built: Path) -> None:
    text = (built / "html" / "how-to" / "functions-loky-cannot-load.py").read_text()
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", text, re.MULTILINE)
    assert block is not None
    metadata = tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.MULTILINE))
    assert ">=3.11" == metadata["requires-python"]
    names = [re.split("[>=]", requirement)[0] for requirement in metadata["dependencies"]]
    assert ["cloudpickle", "loky", "numpy"] == names
    lock = (ROOT / "requirements" / "readers.txt").read_text()
    for requirement in metadata["dependencies"]:
        assert f"\n{requirement.replace('>=', '==')} " in lock


def test_script_of_a_real_page_runs_as_downloaded(built: Path, tmp_path: Path) -> None:
    text = (built / "html" / "how-to" / "functions-loky-cannot-load.py").read_text()
    done = run(text, tmp_path)
    assert 0 == done.returncode, done.stderr
    assert "no solution at 0.5: the matrix is singular" in done.stdout


def test_notebook_is_valid_and_not_executed(built: Path) -> None:
    text = (built / "html" / "page.ipynb").read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs for cell in code)
    # So that "run all" goes on after it, in Jupyter too.
    assert ["expect-worker-error", "raises-exception"] == code[-1].metadata.tags


def test_section_is_the_cells_above_all_sections_and_its_own(built: Path) -> None:
    manifest = json.loads((built / "dummy" / "programs.json").read_text())
    (second,) = [p for p in manifest if p["section"] == "Second"]
    assert ["It needs the first."] == [limit["reason"] for limit in second["limits"]]
    text = (built / "dummy" / f"{second['base']}.py").read_text()
    assert text.index("import adaptive, math") < text.index("tau =") < text.index("print(x)")
    assert "x = math.pi" not in text
    # Its only cell is expected to fail, which must not hide that it cannot work by itself.
    assert ["x"] == second["undefined"]
    assert [] == next(p for p in manifest if p["page"] == "page" and not p["section"])["undefined"]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("%lsmagic", "'%lsmagic' has no form in a script"),
        ("%%bash\nls", "'%%bash' has no form in a script"),
        ("x = (", "is no Python"),
        ("import not_there", "imports not_there, which is not installed"),
        ("import sphinx", "readers.txt has no sphinx"),
    ],
)
def test_what_cannot_be_in_a_script_is_told(cell: str, reason: str) -> None:
    program = programs.Program("a/page", "A", Path("a/page.md"), (Cell(cell, 7),), (), "")
    with pytest.raises(programs.ProgramError, match=re.escape(reason)) as caught:
        program.script()
    assert "page.md" in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"form": "script"}, "has no `reason`"),
        ({"reason": "x", "form": "page"}, "'page' is no form"),
        ({"reason": "x", "start-method": "loky"}, "'loky' is no start method"),
        ({"reason": "x", "python": "new"}, "'new' is not like"),
        ({"reason": "x", "why": "y"}, "nobody knows the key 'why'"),
        ("not on Windows", "has no `reason`"),
    ],
)
def test_header_that_cannot_be_understood_is_told(entry: object, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        programs.Limit.read(entry)


def test_build_ends_at_a_page_that_cannot_become_a_program(site: Site) -> None:
    site.conf(CONF)
    site.write("page", "1", "%lsmagic")
    build = site.build("-D", "nb_execution_mode=off", "-D", "workercheck_allow_unexecuted=*")
    assert 0 != build.status
    assert "page.md:14: '%lsmagic' has no form in a script" in build.log
