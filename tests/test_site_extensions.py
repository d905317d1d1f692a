"""The site's own small extensions, in docs/extensions, in real builds of small sites."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Site

EXT = Path(__file__).resolve().parent.parent / "docs" / "extensions"
sys.path.append(str(EXT))

import script  # noqa: E402
import source_repository  # noqa: E402

CONF = f"""
import os, sys
from pathlib import Path
sys.path.append({str(EXT)!r})
import source_repository

project = "Small"
extensions = ["myst_parser", "llms_txt"]
html_theme = "furo"
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_theme_options = source_repository.theme_options(os.environ, Path(__file__).parent)
"""
READTHEDOCS = {
    "READTHEDOCS_GIT_CLONE_URL": "https://github.com/owner/name.git",
    "READTHEDOCS_GIT_IDENTIFIER": "stable",
    "READTHEDOCS_VERSION_TYPE": "branch",
}


@pytest.fixture
def small(site: Site) -> Site:
    site.conf(CONF)
    site.write("index", text="# Start\n\nWhat it is.\nMore.\n\n```{toctree}\npart/index\n```\n")
    site.write("part/index", text="# Part\n\nAll parts.\n\n```{toctree}\nlast\nfirst\n```\n")
    site.write("part/first", text="# First\n\n- no text\n")
    site.write("part/last", text="# Last *one*\n\n```{note}\nNot this.\n```\n\nThis & that.\n")
    return site


def test_llms_txt_lists_pages_in_reading_order_with_what_they_are_about(small):
    build = small.build("-W")
    assert 0 == build.status, build.log
    assert (build.outdir / "llms.txt").read_text() == (
        "# Small\n\n> What it is.\n\n"
        "## Start\n\n- [Start](index.html): What it is. [As text](_sources/index.md.txt)\n\n"
        "## Part\n\n- [Part](part/index.html): All parts. [As text](_sources/part/index.md.txt)\n"
        "- [Last one](part/last.html): This & that. [As text](_sources/part/last.md.txt)\n"
        "- [First](part/first.html): [As text](_sources/part/first.md.txt)\n"
    )
    for link in re.findall(r"\]\(([^)]*)\)", (build.outdir / "llms.txt").read_text()):
        assert (build.outdir / link).is_file()


def test_llms_txt_has_whole_addresses_where_they_are_known_and_follows_changes(small):
    url = {"READTHEDOCS_CANONICAL_URL": "https://docs.example/en/latest/"}
    small.build(env=url)
    small.write("part/first", text="# First\n\nChanged.\n")
    (small.source / "part" / "last.md").unlink()
    index = small.source / "part" / "index.md"
    index.write_text(index.read_text().replace("last\n", ""))
    text = (small.build(env=url).outdir / "llms.txt").read_text()
    assert "[First](https://docs.example/en/latest/part/first.html): Changed." in text
    assert "last" not in text


def edit_link(build, page="part/first"):
    found = re.findall(
        r'href="([^"]*)"[^>]*rel="edit"', (build.outdir / f"{page}.html").read_text()
    )
    return found[0] if found else None


def test_page_links_to_its_source_where_the_repository_is_known(small):
    url = "https://github.com/owner/name/edit/stable/docs/source/part/first.md"
    assert url == edit_link(small.build(env=READTHEDOCS))


def test_page_has_no_edit_link_where_it_is_not(small):
    build = small.build("-W", env={name: "" for name in READTHEDOCS})
    assert 0 == build.status, build.log
    assert edit_link(build) is None


@pytest.mark.parametrize(
    ("address", "repository"),
    [
        ("https://github.com/owner/name.git", "https://github.com/owner/name/"),
        ("https://x-access-token:secret@github.com/owner/name", "https://github.com/owner/name/"),
        ("git@gitlab.com:group/sub/name.git", "https://gitlab.com/group/sub/name/"),
        ("ssh://git@bitbucket.org/owner/name.git", "https://bitbucket.org/owner/name/"),
        ("https://git.example/owner/name.git", None),
        ("/somewhere/on/disk", None),
        ("", None),
    ],
)
def test_repository_by_the_remote_of_a_clone(tmp_path, address, repository):
    folder = tmp_path / "docs" / "source"
    folder.mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    if address:
        subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", address], check=True)
    options = source_repository.theme_options({}, folder)
    assert repository == options.get("source_repository")
    if repository:
        assert ("main", "docs/source/") == (options["source_branch"], options["source_directory"])


def test_tag_is_edited_on_the_main_branch(tmp_path):
    tag = READTHEDOCS | {"READTHEDOCS_VERSION_TYPE": "tag"}
    assert "main" == source_repository.theme_options(tag, tmp_path)["source_branch"]


def test_no_git_no_link(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert {} == source_repository.theme_options({}, tmp_path)


def test_cell_that_needs_a_loop_leaves_its_names_to_the_script(tmp_path):
    text = script.convert(
        [
            script.Cell("import asyncio\n\ntask = asyncio.create_task(asyncio.sleep(0, 5))", 1),
            script.Cell("print('got', await task)", 4),
        ]
    )
    (tmp_path / "page.py").write_text(text)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "page.py")], capture_output=True, text=True, timeout=60
    )
    assert "got 5\n" == done.stdout, done.stderr


def test_code_with_a_long_word_is_marked(site: Site):
    site.conf(CONF.replace('"llms_txt"', '"long_words"'))
    long = "a" * 31
    site.write("index", text=f"# Start\n\n`{long[1:]}` `{long}` `{long[20:]} {long[20:]}`\n")
    build = site.build("-W")
    assert 0 == build.status, build.log
    html = (build.outdir / "index.html").read_text()
    assert [long] == re.findall(r'<code class="[^"]*\blong\b[^"]*"><span class="pre">(a+)<', html)
