"""Sphinx configuration: every setting is here for the reason beside it."""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from myst_nb.core.render import NbElementRenderer

sys.path.insert(0, str(Path(__file__).parents[1] / "extensions"))

import source_repository

project = "adaptive by example"
html_title = project  # without this, furo appends "documentation" to it
author = "the adaptive documentation authors"
project_copyright = author

extensions = [
    "myst_nb",  # executes the pages
    "workercheck",  # fails the build when a worker process failed
    "sphinx_copybutton",  # copies a cell
    "sphinx.ext.autodoc",  # the reference, from the installed library
    "sphinx.ext.autosummary",  # for the role below
    "sphinx.ext.napoleon",  # reads the numpy style of its docstrings
    "notfound.extension",  # 404.html, right at any depth
    "sphinxext.opengraph",  # title and description for whoever links to a page
    "llms_txt",  # llms.txt: what there is, for programs
    "programs",  # offers each page as a notebook and as a script
    "long_words",  # of code: they break on a phone
    "readers_table",  # shows where they ran
]

# -- Executing ---------------------------------------------------------------

nb_execution_timeout = 120  # seconds a cell; the default of 30 is tight on shared builders

workercheck_packages = ["adaptive", "loky"]  # what each page is about, whatever it imports

# adaptive imports mpi4py in each page that has a runner. MPI then looks for networks, which
# takes it a second; the pages' processes are all on this machine and need none.
os.environ.setdefault("OMPI_MCA_btl", "self,sm")

# The build times adaptive's compiled triangulation on one page. Without this, every other page
# would use it too, and show times that `pip install "adaptive[notebook]"` does not have.
os.environ.setdefault("ADAPTIVE_TRIANGULATION_BACKEND", "python")

nb_merge_streams = True  # one box for what a cell printed, however it arrived

# Plots carry a second rendering for JupyterLab, which a web page has no use for: the
# text/html beside it is the one that is shown. Any other unknown type still warns, for
# which myst-nb has a setting, but only for all types or none.
FOR_JUPYTERLAB = {
    "application/vnd.holoviews_exec.v0+json",
    "application/vnd.holoviews_load.v0+json",
    "application/vnd.plotly.v1+json",
}
render_unhandled = NbElementRenderer.render_unhandled


def render_unknown_type(self, data):
    """Leave out what is meant for JupyterLab; myst-nb warns about the rest."""
    return [] if data.mime_type in FOR_JUPYTERLAB else render_unhandled(self, data)


NbElementRenderer.render_unhandled = render_unknown_type

# -- Reference ---------------------------------------------------------------

default_role = "autolink"  # `name` in a docstring is a link where that can be imported
autosummary_generate = False  # nothing but the role is wanted
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types, in words and shorter
# As plain text: a link for each word of "float, optional" would lead nowhere.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style"), ("Methods", "params_style")]

# Names of other packages in the docstrings. Their inventories would need a network,
# so they stay without a link.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(abc|asyncio|concurrent|dask|distributed|functools|gzip|holoviews|ipyparallel|loky|mpi4py|pandas|plotly"
        r"|scipy)"
        r"(\..*)?",
    ),
]

# Where a docstring names what is documented under another name, or not at all.
DOCSTRING_NAMES = {
    "adaptive.notebook_integration.live_plot`": "adaptive.live_plot`",
    "`LinearNDInterpolator`": "`scipy.interpolate.LinearNDInterpolator`",
    "`learner`": "``learner``",
}


def mend_docstring(app, what, name, obj, options, lines):
    """Repair what Sphinx cannot read in a docstring; the words stay as they are."""
    public = sys.modules["adaptive"].__all__
    text = "\n".join(lines)
    text = re.sub(r",\\\n\s*", ", ", text)  # a type that goes on in the next line
    for wrong, right in DOCSTRING_NAMES.items():
        text = text.replace(wrong, right)
    # Names without their package, which only the package's own modules can resolve.
    text = re.sub(
        r"(?<![`\w])`(\w+)`(?!`)",
        lambda match: f"`~adaptive.{match[1]}`" if match[1] in public else match[0],
        text,
    )
    lines[:] = text.split("\n")


# -- Reading and copying -----------------------------------------------------

myst_enable_extensions = ["colon_fence"]  # ::: notes, which editors show as text
myst_heading_anchors = 3  # so that pages can link to each other's sections

copybutton_selector = "div:not(.output) > div.highlight pre"  # inputs only
copybutton_prompt_text = r">>> |\.\.\. |\$ "  # copied lines run as they are
copybutton_prompt_is_regexp = True

# -- Appearance --------------------------------------------------------------

html_theme = "furo"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["outputs.css", "tables.css"]  # in light, dark and narrow windows
html_js_files = [
    ("tables.js", {"defer": "defer"}),  # wide ones row by row
    ("scrolling.js", {"defer": "defer"}),  # long lines by keyboard
]

html_theme_options = source_repository.theme_options(os.environ, Path(__file__).parent) | {
    "light_logo": "logo-light.svg",
    "dark_logo": "logo-dark.svg",
}

# -- Elsewhere on the web ----------------------------------------------------

# Where the site will be, which Read the Docs knows; empty in other builds.
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
# The page for what is not found may stand at any depth: its links begin with this.
notfound_urls_prefix = urlsplit(html_baseurl).path or "/"
notfound_context = {
    "title": "Page not found",
    "body": f"""<h1>Page not found</h1>
<p>There is no page at this address.
<a href="{notfound_urls_prefix}search.html">Search</a> for what you need,
or begin at <a href="{notfound_urls_prefix}index.html">the first page</a>.</p>""",
}
ogp_site_url = html_baseurl
# A picture of the title for each page says nothing that the title does not.
ogp_social_cards = {"enable": False}

# -- Checking links (nox -s linkcheck) ---------------------------------------

linkcheck_timeout = 20  # seconds
linkcheck_retries = 2
linkcheck_rate_limit_timeout = 60  # seconds to wait, at most, for a host that asks for it
linkcheck_ignore = []  # with a reason beside each

# -- Plots without other hosts -----------------------------------------------

# The widgets' own loader fetches from two CDNs. A page shows them at rest, which
# needs no more than this file.
nb_ipywidgets_js = {"widgets.js": {"defer": "defer"}}

# The JavaScript that draws the plots comes from the very packages that wrote them,
# so that versions always match, and once for all pages: a page's setup cell would
# inline 3.4 MB of it and a first plotly plot 4.8 MB more, hence their `remove-output`.


def package(name):
    """Return the folder of a package without importing it, which would take a second."""
    return Path(find_spec(name).origin).parent


PANEL = package("panel") / "dist"
BOKEH = package("bokeh") / "server/static/js"
PLOT_SCRIPTS = {  # what marks such a plot in a page: the scripts it needs, and when
    "data-root-id": (
        [BOKEH / "bokeh.min.js", BOKEH / "bokeh-widgets.min.js", PANEL / "panel.min.js"],
        "defer",
    ),
    "plotly-graph-div": ([package("plotly") / "package_data/plotly.min.js"], ""),
}
html_static_path += [str(path) for paths, _ in PLOT_SCRIPTS.values() for path in paths]

# Panel's style sheets, which a plot names by their address on a CDN.
PANEL_CSS = re.compile(r"https://cdn\.holoviz\.org/panel/[^/]+/dist/([\w/-]+\.css)(\?v=[\w.]+)?")

# Plotly asks for this beside each plot, for TeX in labels, which we do not use.
PLOTLY_MATHJAX = re.compile(r'<script src="https://[^"]*/mathjax/[^"]*"></script>')


def load_plot_scripts(app, pagename, templatename, context, doctree):
    """Load what a page's plots need from this site, and nothing on other pages."""
    body = context.get("body", "")

    def static(name):
        return context["pathto"](f"_static/{name}", resource=True)

    def own_style_sheet(match):
        copy = Path(app.outdir, "_static", "panel", match[1])
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((PANEL / match[1]).read_bytes())
        return static(f"panel/{match[1]}")

    # In the head, because furo puts add_js_file's scripts behind the plots.
    for mark, (paths, when) in PLOT_SCRIPTS.items():
        if mark in body:
            for path in paths:
                context["metatags"] += f'<script {when} src="{static(path.name)}"></script>\n'
            app.add_js_file("plots.js", loading_method="defer")

    context["body"] = PANEL_CSS.sub(own_style_sheet, PLOTLY_MATHJAX.sub("", body))


# -- Recorded runs -----------------------------------------------------------


def load_player(app, pagename, templatename, context, doctree):
    """Load what plays the runs that `replay.py` recorded, where a page has any."""
    if '<figure class="replay">' in context.get("body", ""):
        app.add_js_file("replay.js", loading_method="defer")
        app.add_css_file("replay.css")


def note_loaded_cells(app, docname, source):
    """Read a page again when a file has changed that a cell takes its code from."""
    for name in re.findall(r"^:?load: (.+)$", source[0], re.MULTILINE):
        app.env.note_dependency(str(Path(app.env.doc2path(docname)).parent / name))


def setup(app):
    """Connect the hooks above."""
    app.connect("source-read", note_loaded_cells)
    app.connect("html-page-context", load_player)
    app.connect("autodoc-process-docstring", mend_docstring, priority=400)  # before napoleon
    app.connect("html-page-context", load_plot_scripts)
