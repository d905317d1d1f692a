"""The functions that a script brings along to do what a notebook does by itself."""

from __future__ import annotations

import ast
import dataclasses as dc
import re
from collections.abc import Sequence

from script import syntax

# What a page does that draws plots.
PLOTS = re.compile(r"^[^#\n]*\b(holoviews|plotly|plot\w*)\b", re.MULTILINE)

# adaptive draws it with holoviews, which a page then need not import.
PLOT_OF_A_LEARNER = re.compile(r"\.plot\w*\(")

OTHERS = ("holoviews", "matplotlib", "plotly")
"""What is no part of Python, of what a script imports for its helpers."""

DISPLAY_THEMSELVES = re.compile(r"\b(plot_3D|plot_isosurface|iplot)\b")

SHOW = '''
def {show}(value):
    """Print a value, as a notebook displays it."""
    if value is not None:
        print(value if hasattr(value, "to_string") else repr(value))
'''

SHOW_PLOTS = '''
def {show}(value):
    """Print a value; save a plot as a web page in a folder beside this script."""
    library = type(value).__module__.partition(".")[0]
    if library not in ("holoviews", "plotly"):
        if value is not None:
            print(value if hasattr(value, "to_string") else repr(value))
        return
    folder = Path(__file__).with_suffix(".plots")
    folder.mkdir(exist_ok=True)
    {show}.plots = getattr({show}, "plots", 0) + 1
    file = folder / f"{{{show}.plots:02}}.html"
    if library == "plotly":
        value.write_html(file, include_plotlyjs="cdn")
    else:
        import holoviews

        holoviews.save(value, file, backend="bokeh")
    print(f"plot: {{folder.name}}/{{file.name}}")
'''

PLOTLY = """
# Some of the plots display themselves with plotly, which would print them here as text.
plotly.offline.init_notebook_mode = lambda: None
plotly.offline.iplot = lambda figure: {show}(plotly.graph_objects.Figure(figure))
"""

SAVE_FIGURES = '''
def {save_figures}():
    """Save what matplotlib has drawn as images, in a folder beside this script."""
    folder = Path(__file__).with_suffix(".plots")
    for number in plt.get_fignums():
        folder.mkdir(exist_ok=True)
        {save_figures}.count = getattr({save_figures}, "count", 0) + 1
        file = folder / f"figure-{{{save_figures}.count:02}}.png"
        plt.figure(number).savefig(file)
        plt.close(number)
        print(f"figure: {{folder.name}}/{{file.name}}")
'''

LOOP = """
# A notebook has an event loop running, in which `await` waits. A script makes its own.
{loop} = asyncio.new_event_loop()
asyncio.set_event_loop({loop})
"""


@dc.dataclass
class Names:
    """What the script calls its own things, so that none is one of the page's."""

    taken: frozenset[str]

    def __post_init__(self) -> None:
        self.loop = self._free("loop", "event_loop")
        self.show = self._free("show", "show_value")
        self.save_figures = self._free("save_figures", "save_all_figures")
        self.error = self._free("error", "failure")

    def _free(self, *candidates: str) -> str:
        return next(
            name for name in (*candidates, f"script_{candidates[0]}") if name not in self.taken
        )


def helpers(body: str, names: Names, trees: Sequence[ast.Module]) -> tuple[str, str]:
    """Return the definitions that the body uses, and the imports that they need."""
    definitions, imports = [], set()
    used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    if names.loop in used:
        definitions.append(LOOP.format(loop=names.loop).strip("\n"))
        imports.add("import asyncio")
    if names.show in used:
        plots = PLOTS.search(body)
        definitions.append((SHOW_PLOTS if plots else SHOW).format(show=names.show).strip("\n"))
        if plots:
            imports.add("from pathlib import Path")
        if DISPLAY_THEMSELVES.search(body):
            definitions.append(PLOTLY.format(show=names.show).strip("\n"))
            imports |= {"import plotly.graph_objects", "import plotly.offline"}
    if "holoviews.extension(" in body and not syntax.alias(trees, "holoviews"):
        imports.add("import holoviews")
    if names.save_figures in used:
        definitions.append(SAVE_FIGURES.format(save_figures=names.save_figures).strip("\n"))
        imports |= {"from pathlib import Path", "import matplotlib.pyplot as plt"}
    if "subprocess.run(" in body and not syntax.alias(trees, "subprocess"):
        imports.add("import subprocess")
    if "Path(" in body and not any("Path" in syntax.bound(tree) for tree in trees):
        imports.add("from pathlib import Path")
    others = {line for line in imports if line.split()[1].startswith(OTHERS)}
    groups = [
        sorted(group, key=lambda line: line.split()[1]) for group in (imports - others, others)
    ]
    return "\n\n\n".join(definitions), "\n\n".join("\n".join(group) for group in groups if group)
