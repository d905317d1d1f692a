"""Which values each setting of ``conf.py`` may have."""

from __future__ import annotations

import logging
import math
import re

import pytest
from conftest import Site
from myst_nb.core.config import NbParserConfig
from myst_nb.sphinx_ext import _UNSET
from sphinx.config import Config
from workercheck.fronts.sphinx import settings

RIGHT = {
    "workercheck_jobs": [0, 1, 64],
    "workercheck_timeout": [0, 5, 0.5],
    "workercheck_allow_unexecuted": [[], ["old/*"], ("old/*",)],
    "workercheck_store": ["", "elsewhere"],
    "workercheck_packages": [[], ["Sphinx"]],
}
WRONG = {
    "workercheck_jobs": ["two", -1, 2.5, True, None],
    "workercheck_timeout": ["5", -5, True, math.nan, math.inf, 10**400, 1e300, [1]],
    "workercheck_allow_unexecuted": ["old/*", [b"old"], None, {"old": 1, 2: 3}],
    "workercheck_store": [3, None],
    "workercheck_packages": ["numpy", [1], ["no-such-thing"]],
}

OF_MYST_NB = {
    "nb_execution_timeout": ["abc", None, 0.5],
    "nb_execution_mode": ["banana", False],
    "jupyter_execute_notebooks": ["banana"],
    "nb_execution_excludepatterns": [3],
    "nb_execution_allow_errors": ["yes"],
    "nb_custom_formats": [[1], {".x": 3}, None],
    "nb_kernel_rgx_aliases": ["x", {1: 2}, {"(": "python3"}],
    "nb_eval_name_regex": ["["],
    "nb_mime_priority_overrides": [3],
}
"""Wrong values of settings at which myst-nb would end the build with a traceback."""


def check(name: str, value: object) -> tuple[bool, object]:
    """Return whether a value is obeyed, and what stands in the configuration then."""
    config = Config({})
    for setting, (default, _, _) in settings.SETTINGS.items():
        config.add(setting, default, "", ())
    for setting, default, field in NbParserConfig().as_triple():
        config.add(f"nb_{setting}", default, "", ())
        if older := field.metadata.get("legacy_name"):
            config.add(older, _UNSET, "", ())
    config[name] = value
    return settings.check(config, {"sphinx"}), config[name]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in RIGHT for value in RIGHT[name]]
)
def test_value_is_taken(name: str, value: object) -> None:
    assert (True, value) == check(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for wrong in (WRONG, OF_MYST_NB) for name in wrong for value in wrong[name]],
    ids=str,
)
def test_wrong_value_is_refused_in_one_line(
    name: str, value: object, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sphinx cuts its loggers off from those of the program.
    monkeypatch.setattr(settings, "LOGGER", logging.getLogger(__name__))
    is_obeyed, instead = check(name, value)
    assert not is_obeyed
    assert value is not instead
    (told,) = caplog.messages
    assert re.fullmatch(f"{name} in conf.py (is|has) .*[.]", told)


def test_every_setting_is_tested() -> None:
    assert settings.SETTINGS.keys() == RIGHT.keys() == WRONG.keys()


def test_build_with_wrong_settings_says_so_and_does_nothing(site: Site) -> None:
    site.conf(
        "extensions = ['myst_nb', 'workercheck']\n"
        "workercheck_packages = ['no-such-thing']\n"
        "nb_execution_timeout = '5'\n"
        "def setup(app):\n"
        "    app.connect('builder-inited', lambda app: open('gallery', 'w').close())\n"
    )
    site.write("good", "print(1)")
    report = site.root / "html" / "workercheck" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text("that of an earlier build")
    build = site.build("--no-color")
    assert 2 == build.status, build.log
    told = [line for line in build.log.splitlines() if "conf.py" in line]
    assert ["workercheck_packages", "nb_execution_timeout"] == [
        line.removeprefix("ERROR: ").split()[0] for line in told
    ]
    assert "Traceback" not in build.log
    assert not report.exists()
    assert not (site.root / "gallery").exists()
