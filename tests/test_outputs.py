"""What a cell prints is bounded, and what was cut is said where it was cut."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from conftest import Site
from runs import execute, page
from workercheck.run import outputs
from workercheck.run.side_by_side import Run

NOTE = "workercheck cut the printed text of this cell here, after 1,000,000 characters\n"


def texts(run: Run, cell: int = 0) -> str:
    return "".join(out.get("text", "") for out in run.notebook.cells[cell].outputs)


def test_output_of_a_cell_is_kept_up_to_a_limit_and_the_cut_is_said(tmp_path: Path) -> None:
    (run,) = execute(
        page(tmp_path, "for _ in range(30_000): print('x' * 99)", "print('y' * 999_999)", "1")
    )
    printed = texts(run)
    assert printed.endswith(NOTE)
    assert 1 == printed.count("workercheck cut")
    assert "x" * 99 + "\n" == printed[:100]
    assert 1_000_000 == len(printed.removesuffix(NOTE).rstrip("\n")) + 1
    assert "y" * 999_999 + "\n" == texts(run, 1)  # just as long as may be


def test_cut_keeps_an_empty_line_at_which_a_message_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kernel sends what a cell prints whenever it has the time, in the middle of a line, too."""
    monkeypatch.setattr(outputs, "PRINTED", 6)
    client = outputs.BoundedClient(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell()]))
    client.clear_before_next_output = False
    outs: list[nbformat.NotebookNode] = []
    for text in ("one", "\ntwo\n"):
        content = {"name": "stdout", "text": text}
        head = {"header": {"msg_type": "stream"}, "parent_header": {"msg_id": "1"}}
        client.output(outs, {"msg_type": "stream", "content": content, **head}, None, 0)
    printed = "".join(out["text"] for out in outs)
    assert printed.startswith("one\ntw\nworkercheck cut")


PRINTS = "import sys, time\nprint('one', end='', flush=True)\ntime.sleep(0.5)\n{}print(' line')"


@pytest.mark.parametrize(
    ("between", "printed"),
    [
        ("", [("stdout", "one line\n")]),
        ("print('!', file=sys.stderr)\n", [("stdout", "one line\n"), ("stderr", "!\n")]),
        ("display(7)\n", [("stdout", "one"), ("stdout", " line\n")]),
        ("print()\nprint('!', file=sys.stderr, flush=True)\ntime.sleep(0.5)\n", None),
    ],
    ids=["alone", "warning", "result", "warning after the line"],
)
def test_line_that_a_kernel_sends_in_two_messages_is_one(
    between: str, printed: list[tuple[str, str]] | None, tmp_path: Path
) -> None:
    (run,) = execute(page(tmp_path, PRINTS.format(between)))
    streams = [out for out in run.notebook.cells[0].outputs if out.output_type == "stream"]
    wanted = printed or [("stdout", "one\n"), ("stderr", "!\n"), ("stdout", " line\n")]
    assert wanted == [(out.name, out.text) for out in streams]


def test_output_that_is_drawn_anew_counts_once(tmp_path: Path) -> None:
    (run,) = execute(
        page(
            tmp_path,
            "from IPython.display import clear_output\n"
            "for i in range(5):\n    clear_output()\n    print(str(i) * 400_000)",
        )
    )
    assert "4" * 400_000 + "\n" == texts(run)


def test_figures_are_bounded_too_and_an_error_never_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "SHOWN", 1000)
    (run,) = execute(
        page(tmp_path, "for c in 'abc': display({'text/html': c * 600}, raw=True)\n1 / 0")
    )
    kinds = [out.output_type for out in run.notebook.cells[0].outputs]
    assert ["display_data", "stream", "error"] == kinds
    assert "workercheck cut the figures, tables and results of this cell here" in texts(run)


def test_page_that_prints_for_ever_ends_at_its_limit(site: Site) -> None:
    site.write("page", "while True: print('x' * 1000)")
    site.conf('extensions = ["myst_nb", "workercheck"]\nworkercheck_timeout = 5\n')
    build = site.build()
    assert 1 == build.status
    assert [("cell-timeout", 9)] == build.findings("page")
    assert build.page("page")["seconds"] < 60
    assert (build.outdir / "page.html").stat().st_size < 5_000_000
