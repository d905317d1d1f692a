"""The settings in ``conf.py``, checked before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sphinx.util import logging

from workercheck.fronts.sphinx import internals
from workercheck.run.store import is_duration

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

LOGGER = logging.getLogger(__name__)

_LIKE_A_SETTING = 0.85
"""How much a name must be like a setting's to be taken for a slip, 1 being the same."""


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


SETTINGS: Mapping[str, tuple[object, Callable[[object], bool], str]] = {
    # As many as Sphinx's -j says, else one more than there are cores.
    "workercheck_jobs": (0, _is_count, "a whole number of pages, 0 for the default"),
    # What nb_execution_timeout says.
    "workercheck_timeout": (0, is_duration, "a number of seconds, 0 for nb_execution_timeout"),
    "workercheck_allow_unexecuted": (
        [],
        _is_list_of_text,
        'a list of patterns of page names, like ["old/*"]',
    ),
    # Beside nb_execution_cache_path.
    "workercheck_store": ("", _is_text, "the path of a folder"),
    "workercheck_packages": ([], _is_list_of_text, 'a list of package names, like ["numpy"]'),
}
"""Each setting with its default, its check, and what is allowed in words."""

_CHANGES_NO_PAGE = ("workercheck_jobs", "workercheck_store")
"""Settings for which Sphinx need not write the pages again."""


def register(app: Sphinx) -> None:
    """Tell Sphinx of the settings.

    "html": such settings are part of ``.buildinfo``, which so tells whether this extension was on.
    Of any type, for Sphinx only warns of a wrong one, and builds with it.
    """
    for name, (default, _, _) in SETTINGS.items():
        app.add_config_value(name, default, "" if name in _CHANGES_NO_PAGE else "html", Any)


def check(config: Config, installed: Collection[str]) -> bool:
    """Say which settings, also of myst-nb, cannot be obeyed, and which names are nearly a setting.

    The default then stands in for a setting, so that nobody else stumbles over it.

    Parameters
    ----------
    config
        What ``conf.py`` and the command line say.
    installed
        Names of the installed distributions, in lower case, with hyphens.

    Returns
    -------
    bool
        Whether all can be obeyed.
    """
    refused = [*_refused(config, installed), *internals.refused_by_myst_nb(config)]
    for name, default, why in refused:
        LOGGER.error("%s in conf.py %s.", name, why)
        config[name] = default
    for name in internals.names_in_conf(config):
        if name not in SETTINGS and (meant := _meant(name)):
            LOGGER.warning("conf.py sets %s, which is no setting; do you mean %s?", name, meant)
    return not refused


def _refused(config: Config, installed: Collection[str]) -> Iterator[tuple[str, object, str]]:
    for name, (default, is_right, allowed) in SETTINGS.items():
        value = config[name]
        if not is_right(value):
            yield name, default, f"is {value!r}; it must be {allowed}"
        elif name == "workercheck_packages":
            for package in value:
                if package.lower().replace("_", "-") not in installed:
                    yield (
                        name,
                        default,
                        f"has {package!r}, which is not installed where sphinx-build runs. "
                        "Install it, or remove it from the list",
                    )


def _meant(name: str) -> str | None:
    cutoff = 0.0 if name.startswith("workercheck_") else _LIKE_A_SETTING
    return next(iter(difflib.get_close_matches(name, SETTINGS, 1, cutoff)), None)
