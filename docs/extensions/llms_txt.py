"""Write ``llms.txt``: what each page is about, in one line, and where its source is as text."""

from pathlib import Path
from urllib.parse import quote, urljoin

from docutils import nodes


def write(app, exception):
    """List the pages of a finished build in the order of its tables of contents."""
    if exception is not None or app.builder.name not in ("html", "dirhtml"):
        return
    root = app.config.root_doc
    lines = [f"# {app.config.project}", "", f"> {description(app.env, root)}"]
    for section in [root, *app.env.toctree_includes.get(root, ())]:
        lines += ["", f"## {app.env.titles[section].astext()}", "", entry(app, section)]
        if section != root:
            lines += [entry(app, page) for page in below(app.env, section)]
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def below(env, docname):
    """Yield the pages in the tables of contents of a page, and in theirs."""
    for child in env.toctree_includes.get(docname, ()):
        yield child
        yield from below(env, child)


def entry(app, docname):
    """Return the line about a page."""
    suffix = Path(app.env.doc2path(docname)).suffix + app.config.html_sourcelink_suffix
    page = urljoin(app.config.html_baseurl, app.builder.get_target_uri(docname))
    source = urljoin(app.config.html_baseurl, f"_sources/{quote(docname)}{suffix}")
    title = app.env.titles[docname].astext()
    about = description(app.env, docname)
    return " ".join(filter(None, [f"- [{title}]({page}):", about, f"[As text]({source})"]))


def description(env, docname):
    """Return the first line of a page's text, which says what it is for."""
    for paragraph in env.get_doctree(docname).findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section):
            return paragraph.astext().splitlines()[0]
    return ""


def setup(app):
    """Connect the one hook there is."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
