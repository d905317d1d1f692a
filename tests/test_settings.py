"""Which values each setting of ``conf.py`` may have."""

from __future__ import annotations

import math

import pytest
from sphinx.config import Config
from sphinx.errors import ConfigError
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


def check(name: str, value: object) -> None:
    config = Config({})
    for setting, (default, _, _) in settings.SETTINGS.items():
        config.add(setting, default, "", ())
    config[name] = value
    settings.check(config, {"sphinx"})


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in RIGHT for value in RIGHT[name]]
)
def test_value_is_taken(name: str, value: object) -> None:
    check(name, value)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]], ids=str
)
def test_wrong_value_is_refused_in_one_line(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} in conf.py (is|has) .*$") as refused:
        check(name, value)
    assert "\n" not in str(refused.value)


def test_every_setting_is_tested() -> None:
    assert settings.SETTINGS.keys() == RIGHT.keys() == WRONG.keys()
