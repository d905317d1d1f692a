"""What of Sphinx and myst-nb the extension uses that they do not promise: here, nowhere else.

Each function has a test that names the library, should it change.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol, cast

from myst_nb.core.config import NbParserConfig
from myst_parser.config.main import MdParserConfig

if TYPE_CHECKING:
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment


class MystNbEnvironment(Protocol):
    """The attributes that myst-nb puts on the build environment."""

    myst_config: MdParserConfig
    mystnb_config: NbParserConfig
    nb_metadata: dict[str, dict[str, Any]]


def myst_nb(env: BuildEnvironment) -> MystNbEnvironment:
    """Return a build environment as myst-nb sees it."""
    return cast("MystNbEnvironment", env)


def names_in_conf(config: Config) -> Collection[str]:
    """Return every name that ``conf.py`` binds, settings or not."""
    return config._raw_config.keys()
