"""Every page of the built site, as a reader sees it on a phone and on a laptop, light and dark."""

import pytest

# The theme that the reader's system asks for; furo's button then switches to the other one.
WINDOWS = {"phone": (390, "dark"), "laptop": (1280, "light")}


@pytest.mark.parametrize("window", WINDOWS)
def test_page(visit, site, docname, window):
    width, scheme = WINDOWS[window]
    # Contrast takes axe most of its time, and that of code is the same on a phone.
    where = {"exclude": [["pre"]]} if window == "phone" else None
    contrast = {"color-contrast": {"enabled": False}}

    page = visit(f"{site}/{docname}.html", width=width, scheme=scheme)
    problems = [*page.look(), *page.axe(rules=contrast)]
    problems += page.axe(context=where, runOnly=["color-contrast"])
    page.switch_theme()
    # Nothing but the colours has changed.
    problems += [*page.plots(), *page.axe(context=where, runOnly=["color-contrast"])]
    problems += page.problems
    assert not problems, "\n".join(problems)
