"""Each check turns down a page with the fault it is for, and passes the page without it."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import serve
from playwright.sync_api import TimeoutError

HEALTHY = Path(__file__).with_name("healthy.html").read_text()


def healthy(kind):
    """Return the page with its text, and the plot of a library where that is its kind.

    The libraries take most of the time of a visit: a page has those that its fault is about.
    """
    part = re.compile(r"<!-- (\w+) -->(.*?)<!-- end -->", re.DOTALL)
    return part.sub(lambda match: match[2] if match[1] == kind else "", HEALTHY)


# By what is on the page: what to replace in it by what, and what must be said about the result.
FAULTS = {
    "text": {
        "console error": (
            "</article>",
            "</article><script>console.error('broken')</script>",
            "console: broken",
        ),
        "uncaught error": (
            "</article>",
            "</article><script>throw new Error('nobody caught me')</script>",
            "error: nobody caught me",
        ),
        "missing file": (
            "</article>",
            "</article><script src='_static/nowhere.js'></script>",
            "request failed with 404: ",
        ),
        "other host": (
            "</article>",
            "</article><script src='https://cdn.example/widget.js'></script>",
            "request to another host: https://cdn.example/widget.js",
        ),
        "sticks out": (
            "pre { overflow-x: auto; }",
            "pre { overflow-x: visible; }",
            " px wide in a window of 390 px",
        ),
        "cut off": (
            "pre { overflow-x: auto; }",
            "article { overflow-x: clip; } pre { width: max-content; }",
            "sticks out",
        ),
        "empty picture": (
            'src="_static/favicon.svg"',
            "src='data:image/svg+xml,<svg xmlns=\"http://www.w3.org/2000/svg\"/>'",
            "is empty",
        ),
        "picture that is none": (
            'src="_static/favicon.svg"',
            'src="data:image/png;base64,none"',
            "has not loaded",
        ),
        "empty drawing": ("L 50 50", "", "is empty"),
        "table that loses columns": (
            '<script defer src="_static/tables.js"></script>',
            "",
            'px of the table "setting',
        ),
        "code beyond the page": (
            '<link rel="stylesheet" href="_static/outputs.css" />',
            "",
            'px of the code "import numpy',
        ),
        "docstring's example beyond the page": (
            '"doctest highlight-default"',
            '"doctest"',
            'px of the code ">>> an_example',
        ),
        "output beyond the page": (
            '<div class="cell_output">',
            '<div class="cell_output" style="white-space: nowrap"><style>'
            "div.cell_output .highlight pre { white-space: inherit !important }</style>",
            'px of the output "NameError',
        ),
        "code torn from its punctuation": (
            '<span class="pre">a_',
            '<span class="pre" style="display: inline-block">a_',
            "a_word_of_this_width is torn from its punctuation",
        ),
        "code in letters too large for its 60 columns": (
            "line-height: 1.5",
            "font-size: 1rem !important; line-height: 1.5",
            '2 lines of "the_first_line',
        ),
        "entry of the reference without a description": (
            "Evaluate without workers.",
            "",
            "adaptive.simple has no description",
        ),
        "copy button for a mouse": (
            '<link rel="stylesheet" href="_static/outputs.css" />',
            "",
            "a copy button shows under a mouse only",
        ),
        "name in code like a link": (
            '<link rel="stylesheet" href="_static/outputs.css" />',
            "",
            "numpy looks like a link and is none",
        ),
        "pale code in the dark": (
            "color: #71adff",
            "color: #333",
            "axe, serious: Elements must meet minimum color contrast ratio thresholds",
        ),
        "code like other code, on a ground of its own": (
            "# and a comment",
            "<span style='background: #888'><span class='nn'>numpy</span></span>",
            "axe, serious: Elements must meet minimum color contrast ratio thresholds",
        ),
        "code out of the keyboard's reach": (
            '<script defer src="_static/scrolling.js"></script>',
            "",
            "axe, serious: Scrollable region must have keyboard access",
        ),
        "picture without words": (
            'alt="an icon"',
            "",
            "axe, critical: Images must have alternative text",
        ),
        "grey on grey": (
            "<h1>",
            "<h1 style='color: #888; background: #777'>",
            "axe, serious: Elements must meet minimum color contrast ratio thresholds",
        ),
        "grey on grey, like text that nobody sees": (
            "<h1>",
            "<style>b { color: #888; background: #777 }</style>"
            + 3 * "<b style='visibility: hidden'>grey</b>"
            + "<b>grey</b><h1>",
            "axe, serious: Elements must meet minimum color contrast ratio thresholds",
        ),
    },
    "bokeh": {
        "bokeh without a figure": (
            "doc.add_root(root)",
            "doc",
            "bokeh plot 1 has not drawn: there is no figure",
        ),
        "bokeh without data": (
            "({ x: [0, 1, 2, 3], y: [0, n, n / 2, 4] })",
            "({ x: [], y: [] })",
            "bokeh plot 1 has not drawn: its data leave no pixel",
        ),
        "bokeh with data out of sight": (
            '"Range1d", { start: -1, end: 4 }',
            '"Range1d", { start: 100, end: 400 }',
            "bokeh plot 1 has not drawn: its data leave no pixel",
        ),
        "bokeh on white paper in the dark": (
            '<script defer src="_static/plots.js"></script>',
            "",
            "bokeh plot 1 is #ffffff on a page of rgb(19, 20, 22)",
        ),
        "bokeh with pale data": (
            "#30a2da",
            "#181a1c",
            "bokeh plot 1: Scatter is hard to see",
        ),
        "bokeh with pale text": (
            "background: var(--color-background-primary)",
            "--color-foreground-primary: #555 !important; background: #131416",
            "bokeh plot 1: LinearAxis.axis_label_text_color is hard to read",
        ),
        "bokeh with data under its legend": (
            'location: "top_left"',
            'location: "top_right"',
            "bokeh plot 1 has data under its legend",
        ),
        "bokeh that takes the wheel": (
            '<script defer src="_static/plots.js"></script>',
            "",
            "bokeh plot 1 takes the wheel from the page",
        ),
        "bokeh that takes the finger": (
            '<script defer src="_static/plots.js"></script>',
            "",
            "bokeh plot 1 takes the finger from the page",
        ),
        "dead slider": (
            "source.data = points(slider.value);",
            "",
            "slider 1 does not change its plot",
        ),
        "slider without a name": (
            'make("Column", { children: [text, slider] })',
            "slider",
            "axe, serious: ARIA input fields must have an accessible name",
        ),
        "slider as pale as its track": (
            "--color-brand-primary: #3d94ff",
            "--color-brand-primary: #3f4448",
            "the handle of slider 1 is hard to see",
        ),
    },
    "plotly": {
        "plotly that takes the finger": (
            '<script defer src="_static/plots.js"></script>',
            "",
            "plotly plot 1 takes the finger from the page",
        ),
        "plotly that takes the wheel": (
            '<script defer src="_static/plots.js"></script>',
            "",
            "plotly plot 1 takes the wheel from the page",
        ),
        "plotly without traces": (
            "[{ x: [1, 2], y: [1, 2] }]",
            "[]",
            "plotly plot 1 has not drawn: it has no traces",
        ),
        "plotly in three dimensions without axes": (
            "[{ x: [1, 2], y: [1, 2] }], {}",
            "[{ type: 'scatter3d', x: [1, 2], y: [1, 2], z: [1, 2] }],"
            " { scene: { zaxis: { showticklabels: false } } }",
            "plotly plot 1 has no zaxis",
        ),
        "plotly without data": (
            "[{ x: [1, 2], y: [1, 2] }]",
            "[{ x: [null], y: [null] }]",
            "plotly plot 1 has not drawn: its data leave no pixel",
        ),
    },
}


@pytest.fixture
def open_text(visit, tmp_path, pytestconfig):
    """Return a function that opens a page with this text on a phone."""
    (tmp_path / "_static").symlink_to(pytestconfig.getoption("site").resolve() / "_static")
    with serve(tmp_path) as address:

        def open_page(text):
            (tmp_path / "page.html").write_text(text)
            return visit(f"{address}/page.html", width=390, patience=3)

        yield open_page


@pytest.mark.parametrize("kind", FAULTS)
def test_page_with_nothing_wrong_passes(open_text, kind):
    page = open_text(healthy(kind))
    page.switch_theme()
    assert [*page.look(), *page.axe(), *page.contrast(), *page.problems] == []


@pytest.mark.parametrize(
    ("kind", "fault"),
    [pytest.param(kind, fault, id=fault) for kind in FAULTS for fault in FAULTS[kind]],
)
def test_fault_is_found(open_text, kind, fault):
    part, replacement, expected = FAULTS[kind][fault]
    text = healthy(kind)
    assert text.count(part) == 1
    page = open_text(text.replace(part, replacement))
    page.switch_theme()
    found = [*page.axe(), *page.contrast()] if expected.startswith("axe") else page.look()
    problems = [*found, *page.problems]
    assert [problem for problem in problems if expected in problem], problems


def test_plot_turns_after_a_tap_and_rests_after_a_tap_elsewhere(open_text):
    page = open_text(healthy("plotly"))
    plot = "document.querySelector('#plotly .nsewdrag')"
    assert page.swipe(plot)
    page.page.get_by_role("button", name="Tap to turn").tap()
    assert not page.swipe(plot)
    page.page.get_by_role("heading").tap()
    assert page.swipe(plot)


def test_table_that_fits_stays_one(open_text):
    wide = healthy("text")
    narrow = wide.replace("its_default_is_long_as_well", "none")
    stacked = "document.querySelectorAll('table.stacked').length"
    assert [open_text(text).page.evaluate(stacked) for text in (wide, narrow)] == [1, 0]


@pytest.mark.parametrize("kind", ["bokeh", "plotly"])
def test_plot_follows_the_theme_and_back(open_text, kind):
    page = open_text(healthy(kind))
    for _ in range(3):
        assert page.plots() == []
        page.switch_theme()


def point_is_read(page):
    """Move the mouse to the first point of the plot; return whether its numbers are shown."""
    x, y = page.page.evaluate(
        """() => {
          const root = document.querySelector("[data-root-id]");
          root.scrollIntoView({ block: "center", behavior: "instant" });
          const all = (view) => [view, ...(view.child_views ?? []).flatMap(all)];
          const views = all(Bokeh.index[root.dataset.rootId]);
          const figure = views.find((one) => one.model.type === "Figure");
          const { left, top } = figure.canvas_view.events_el.getBoundingClientRect();
          return [left + figure.frame.x_scale.compute(0), top + figure.frame.y_scale.compute(0)];
        }"""
    )
    page.page.mouse.move(x - 20, y)
    page.page.mouse.move(x, y, steps=5)
    with suppress(TimeoutError):
        page.page.get_by_text("y: 0", exact=True).first.wait_for(timeout=2_000)
        return page.page.get_by_text("x: 0", exact=True).first.is_visible()
    return False


def test_pointer_reads_the_numbers_of_a_point(open_text):
    assert point_is_read(open_text(healthy("bokeh")))


def test_pointer_reads_nothing_without_the_script(open_text):
    text = healthy("bokeh").replace('<script defer src="_static/plots.js"></script>', "")
    assert not point_is_read(open_text(text))


def hides_its_legend(page):
    """Give the plot another tool; return whether its legend is behind it then."""
    page.page.evaluate(
        """async () => {
          const models = [...Bokeh.documents[0].all_models];
          const toolbar = models.find(({ type }) => type === "Toolbar");
          toolbar.tools = [...toolbar.tools, new (Bokeh.Models.get("HoverTool"))()];
          await new Promise((resolve) => setTimeout(resolve, 500));
        }"""
    )
    return any("hides its legend" in problem for problem in page.plots())


def test_legend_stays_in_front_of_its_plot(open_text):
    assert not hides_its_legend(open_text(healthy("bokeh")))


def test_legend_behind_its_plot_is_found(open_text):
    text = healthy("bokeh").replace('<script defer src="_static/plots.js"></script>', "")
    assert hides_its_legend(open_text(text))
