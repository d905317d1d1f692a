"""The player of recorded runs, by keyboard, by finger, and for those who asked for less motion."""

import re

import pytest
from conftest import pages

PLAYER = "figure.replay"
PHONE = 390

# Text that its box cuts off, and what sticks out of the player; empty where all can be read.
CLIPPED = """player => [...player.querySelectorAll("*")].filter((element) => {
  if (element.closest("svg, script")) return false;
  const { left, right } = element.getBoundingClientRect();
  const edge = player.getBoundingClientRect();
  return right > edge.right + 1 || left < edge.left - 1
    || (element.tagName !== "INPUT" && element.scrollWidth > element.clientWidth + 1
        && getComputedStyle(element).display !== "inline");
}).map((element) => element.outerHTML.slice(0, 80))"""


def pytest_generate_tests(metafunc):
    site = metafunc.config.getoption("site")
    if "played" in metafunc.fixturenames:
        played = [
            page for page in pages(site) if '<figure class="replay">' in (site / page).read_text()
        ]
        assert "index.html" in played
        metafunc.parametrize("played", played)


class Player:
    """The first player of a page, as a reader has it."""

    def __init__(self, page):
        self.box = page.locator(PLAYER).first
        self.button = self.box.get_by_role("button")
        self.slider = self.box.get_by_role("slider", name="Time of the run")
        self.pictures = self.box.get_by_role("img")
        self.page = page

    @property
    def seconds(self):
        return float(self.box.get_by_role("status").text_content().removesuffix(" s"))

    @property
    def points(self):
        """How many points each picture says that it has."""
        titles = self.box.locator(".replay-title").all_text_contents()
        return [int(re.search(r"(\d+) points", title)[1]) for title in titles]

    @property
    def total(self):
        return int(re.match(r"\d+", self.box.locator("figcaption").text_content())[0])

    def is_moving(self):
        before = self.seconds
        self.page.wait_for_timeout(500)
        return self.seconds != before


@pytest.fixture
def player(visit, site):
    def open_player(page="index.html", **options):
        return Player(visit(f"{site}/{page}", **options).page)

    return open_player


def test_keyboard_plays_pauses_and_seeks(player):
    player = player()
    player.button.press("Enter")
    assert player.button.text_content() == "Pause"
    assert player.is_moving()
    player.button.press(" ")
    assert player.button.text_content() == "Play"
    assert not player.is_moving()

    player.slider.press("Home")
    assert (player.seconds, player.points) == (0, [0, 0])
    assert "0.00 seconds, 0 points" == player.slider.get_attribute("aria-valuetext")
    for _ in range(100):
        player.slider.press("ArrowRight")
    assert 0 < player.points[0] < player.total
    player.slider.press("End")
    assert player.points == [player.total] * 2
    assert player.button.text_content() == "Play again"


def test_tab_reaches_the_button_and_then_the_slider(player):
    player = player()
    player.button.focus()
    player.page.keyboard.press("Tab")
    assert player.slider.evaluate("slider => slider === document.activeElement")


def test_seeking_ends_the_play(player):
    player = player()
    player.button.press("Enter")
    assert player.is_moving()
    player.slider.press("Home")
    assert player.button.text_content() == "Play"
    assert not player.is_moving()


def test_play_ends_with_the_whole_run(player):
    player = player()
    player.slider.press("End")
    for _ in range(10):
        player.slider.press("ArrowLeft")
    player.button.press("Enter")
    player.page.wait_for_function(
        "document.querySelector('figure.replay button').textContent === 'Play again'"
    )
    assert player.points == [player.total] * 2
    assert not player.is_moving()


def test_finger_plays_and_seeks(player):
    player = player(width=PHONE)
    player.button.tap()
    assert player.button.text_content() == "Pause"
    player.slider.tap()  # its middle
    assert player.button.text_content() == "Play"
    assert 0 < player.points[0] < player.total


def test_nothing_moves_by_itself_for_those_who_asked_for_less_motion(player):
    player = player(motion="reduce")
    player.box.scroll_into_view_if_needed()
    assert not player.is_moving()
    assert player.points == [player.total] * 2


def test_it_plays_by_itself_for_the_others(player):
    player = player(motion="no-preference")
    player.box.scroll_into_view_if_needed()
    assert player.is_moving()
    player.button.press("Enter")
    assert not player.is_moving()


def test_reader_without_scripts_has_the_result(browser, site):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{site}/index.html")
        text = page.locator(f"{PLAYER} figcaption").text_content()
    # The workers may be on points that the goal no longer needs.
    assert re.match(r"10\d points in .* on 4 workers.* The mean error is 0\.0.* grid\.$", text)


@pytest.mark.parametrize("width", [PHONE, 1280])
def test_nothing_of_a_player_is_cut_off(player, played, width):
    player = player(played, width=width)
    for box in player.page.locator(PLAYER).all():
        assert box.evaluate(CLIPPED) == []
    for picture in player.pictures.all():
        assert picture.bounding_box()["width"] > 100
        assert picture.get_attribute("aria-label")


def test_what_is_cut_off_is_found(player):
    player = player(width=PHONE)
    player.page.add_style_tag(content=".replay-row { grid-template-columns: 20em 20em 5em }")
    assert player.box.evaluate(CLIPPED)
