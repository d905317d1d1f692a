"""Every page of the built site, as a reader sees it on a phone and on a laptop, light and dark."""

import pytest

# The theme that the reader's system asks for; furo's button then switches to the other one.
WINDOWS = {"phone": (390, "dark"), "laptop": (1280, "light")}


@pytest.mark.parametrize("window", WINDOWS)
def test_page(visit, site, docname, window):
    width, scheme = WINDOWS[window]
    # Contrast takes axe most of its time: three times are enough for dark as the system asks for
    # it, for light, and for dark by the button. That of code is the same on a phone.
    is_phone = window == "phone"

    page = visit(f"{site}/{docname}.html", width=width, scheme=scheme)
    problems = [*page.look(), *page.axe(), *page.contrast(code=not is_phone)]
    page.switch_theme()
    # Nothing but the colours has changed.
    problems += page.plots()
    if not is_phone:
        problems += page.contrast()
    problems += page.problems
    assert not problems, "\n".join(problems)
