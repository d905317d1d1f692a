"""Every page of the built site, as a reader sees it on a phone and on a laptop, light and dark."""

import pytest

# The theme that the reader's system asks for; furo's button then switches to the other one.
WINDOWS = {"phone": (390, "dark"), "laptop": (1280, "light")}


@pytest.mark.parametrize("window", WINDOWS)
def test_page(visit, site, docname, window):
    width, scheme = WINDOWS[window]
    page = visit(f"{site}/{docname}.html", width=width, scheme=scheme)
    problems = [*page.look(), *page.axe(), *page.contrast()]
    page.switch_theme()
    # Nothing but the colours has changed; a phone's in light are those of a laptop.
    problems += page.plots()
    if window == "laptop":
        problems += page.contrast()
    problems += page.problems
    assert not problems, "\n".join(problems)
