"""A page opened in the browser, and what is wrong with it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import TimeoutError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Request, Response, Route

PROBE = Path(__file__).with_name("probe.js")
PHONE = 390  # the width of its window, in px; it has no mouse
HEIGHTS = {PHONE: 844, 1280: 800}  # of a phone and of a small laptop, in px
SLIDERS = ".noUi-handle"
LISTS = "[data-root-id] select"


class Visit:
    """Open a page, and note what the browser complains about from then on.

    Parameters
    ----------
    browser
        The browser to open it in.
    address
        Where the page is.
    width
        Width of the window, in px.
    scheme
        What the reader's system prefers.
    motion
        Whether the reader's system asks for less of it.
    patience
        Seconds that a plot may take to draw, and to follow its slider.
    """

    def __init__(
        self,
        browser: Browser,
        address: str,
        *,
        width: int = 1280,
        scheme: Literal["light", "dark"] = "light",
        motion: Literal["reduce", "no-preference"] = "reduce",
        patience: float = 60,
    ) -> None:
        self.host = urlsplit(address).netloc
        self.patience = 1000 * patience
        self.problems: list[str] = []
        self.has_touch = width == PHONE
        self.context = browser.new_context(
            viewport={"width": width, "height": HEIGHTS[width]},
            color_scheme=scheme,
            has_touch=self.has_touch,
            reduced_motion=motion,  # a colour half way through a transition is no colour
        )
        self.context.add_init_script(path=PROBE)
        self.page = self.context.new_page()
        # What lies elsewhere is not asked for: this must not depend on the network.
        self.page.route(lambda url: not self.is_ours(url), self.refuse)
        self.page.on("console", self.note_console)
        self.page.on("pageerror", lambda error: self.note(f"error: {error}"))
        self.page.on("response", self.note_response)
        self.page.on("requestfailed", self.note_failed)
        self.page.goto(address, timeout=120_000)  # three dimensions without a graphics card
        self.settle()

    def close(self) -> None:
        self.context.close()

    # -- What the browser complains about ---------------------------------------

    def note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def is_ours(self, url: str) -> bool:
        return urlsplit(url).netloc == self.host or url.startswith(("data:", "blob:"))

    def refuse(self, route: Route) -> None:
        self.note(f"request to another host: {route.request.url}")
        route.abort()

    def note_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.note(f"console: {message.text}")

    def note_response(self, response: Response) -> None:
        if response.status >= 400:
            self.note(f"request failed with {response.status}: {response.url}")

    def note_failed(self, request: Request) -> None:
        if self.is_ours(request.url):
            self.note(f"request failed, {request.failure}: {request.url}")

    # -- What a look at the page shows -------------------------------------------

    def settle(self) -> None:
        """Wait until the plots have drawn, for as long as they may need."""
        with suppress(TimeoutError):  # `plots` says which has not
            self.page.wait_for_function("probe.ready()", timeout=self.patience)
        if self.page.evaluate("probe.plotElements().length"):
            # plots.js looks for new plots ten times a second.
            self.page.wait_for_timeout(200)

    def switch_theme(self) -> None:
        """Press furo's button, which turns light into dark and dark into light."""
        self.page.locator(".theme-toggle:visible").first.click()
        self.settle()

    def plots(self) -> list[str]:
        return self.page.evaluate("probe.plots()")

    def sideways(self) -> list[str]:
        return self.page.evaluate("probe.sideways()")

    def code(self) -> list[str]:
        return self.page.evaluate("probe.code()")

    def look(self) -> list[str]:
        """Everything but axe, which takes longer."""
        return [
            *self.sideways(),
            *self.code(),
            *self.page.evaluate("probe.nameless()"),
            *self.controls(),
            *self.plots(),
            *self.swipes(),
        ]

    def axe(self) -> list[str]:
        """Return what axe finds serious or critical, but for contrast, which takes longer."""
        return self.run_axe(rules={"color-contrast": {"enabled": False}})

    def contrast(self) -> list[str]:
        """Return the text that axe finds hard to read.

        Of pieces of text that look alike, on grounds that look alike, axe sees three.
        """
        self.page.evaluate("probe.markLooks()")
        return self.run_axe(context={"include": [["[data-look]"]]}, runOnly=["color-contrast"])

    def run_axe(self, *, context: dict[str, object] | None = None, **options: object) -> list[str]:
        """Return what axe finds serious or critical, given its own context and options."""
        results = Axe().run(self.page, context, {"resultTypes": ["violations"], **options})
        return [
            f"axe, {one['impact']}: {one['help']}: {node['target']} {node['html'][:120]}"
            for one in results.response["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def swipes(self) -> list[str]:
        """Scroll by a finger on each plot; return those that keep the page still."""
        if not self.has_touch:
            return []
        named = self.page.evaluate("probe.plotElements().map(([name]) => name)")
        return [
            f"{name} takes the finger from the page"
            for index, name in enumerate(named)
            if not self.swipe(f"probe.plotElements()[{index}][1]")
        ]

    def swipe(self, element: str) -> bool:
        """Move a finger from the middle of an element; return whether the page has followed."""
        x, y, before, distance = self.page.evaluate(
            f"""() => {{
              const element = {element};
              element.scrollIntoView({{ block: "center", behavior: "instant" }});
              const {{ left, top, width, height }} = element.getBoundingClientRect();
              // Down the page, or up where that is its end.
              const room = document.scrollingElement.scrollHeight - innerHeight - scrollY;
              return [left + width / 2, top + height / 2, scrollY, room > 100 ? -100 : 100];
            }}"""
        )
        devtools = self.context.new_cdp_session(self.page)
        for kind, moved in [("touchStart", 0), *(("touchMove", n / 10) for n in range(1, 11))]:
            points = [{"x": x, "y": y + moved * distance}]
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        devtools.detach()
        try:
            patience = min(self.patience, 5_000)
            self.page.wait_for_function("y => scrollY !== y", arg=before, timeout=patience)
        except TimeoutError:
            return False
        self.page.wait_for_timeout(300)  # it rolls on a little
        return True

    def controls(self) -> list[str]:
        """Move each slider and list by keyboard; return those that do nothing."""
        found = []
        for kind, selector in (("slider", SLIDERS), ("list", LISTS)):
            for number, control in enumerate(self.page.locator(selector).all(), 1):
                if not self.moves(control, "ArrowRight" if kind == "slider" else "ArrowDown"):
                    found.append(f"{kind} {number} does not change its plot")
        return found

    def moves(self, control: Locator, key: str) -> bool:
        before = control.evaluate("probe.look")
        control.press(key)
        element = control.element_handle()
        try:
            self.page.wait_for_function(
                "([element, before]) => probe.look(element) !== before",
                arg=[element, before],
                timeout=min(self.patience, 10_000),
            )
        except TimeoutError:
            return False
        return True
