"""What of Sphinx and myst-nb the extension uses that they do not promise: here, nowhere else.

Each part has a test that names the library, should it change.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args, get_origin

import myst_nb.sphinx_
from myst_nb.core.config import NbParserConfig
from myst_nb.core.execute import create_client
from myst_nb.core.execute.base import EvalNameError, NotebookClientBase
from myst_nb.core.read import UnexpectedCellDirective
from myst_nb.sphinx_ import Parser as MystNbParser
from myst_nb.sphinx_ext import _UNSET, OUTPUT_FOLDER
from myst_parser.config.main import MdParserConfig

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment

__all__ = [
    "OUTPUT_FOLDER",
    "EvalNameError",
    "MystNbParser",
    "NotebookClientBase",
    "UnexpectedCellDirective",
    "building_nothing",
    "built_within",
    "executed_by",
    "myst_nb_of",
    "names_in_conf",
    "refused_by_myst_nb",
    "text_as_read",
]

Client = Callable[..., NotebookClientBase]
"""Makes what gives myst-nb the outputs of a notebook, from the arguments of `create_client`."""

_REGULAR_EXPRESSIONS = ("kernel_rgx_aliases", "eval_name_regex")
"""Settings of myst-nb that it compiles only when it reads a page."""


class MystNbEnvironment(Protocol):
    """The attributes that myst-nb puts on the build environment."""

    myst_config: MdParserConfig
    mystnb_config: NbParserConfig


def myst_nb_of(env: BuildEnvironment) -> MystNbEnvironment:
    """Return a build environment as myst-nb sees it."""
    return cast("MystNbEnvironment", env)


@contextlib.contextmanager
def executed_by(replace: Callable[[Client], Client]) -> Iterator[None]:
    """Have myst-nb's parser get outputs from another client.

    Parameters
    ----------
    replace
        Returns what makes the client, given what makes myst-nb's own.
    """
    names = vars(myst_nb.sphinx_)
    names["create_client"] = replace(create_client)
    try:
        yield
    finally:
        names["create_client"] = create_client


def built_within(app: Sphinx, context: Callable[[], AbstractContextManager[None]]) -> None:
    """Have a build run within a context: Sphinx has no event for the builds that are interrupted.

    Parameters
    ----------
    app
        The build, which has not begun to read.
    context
        Makes the context.
    """
    build = app.build

    @functools.wraps(build)
    def build_within(*args: Any, **options: Any) -> None:
        with context():
            build(*args, **options)

    vars(app)["build"] = build_within


def names_in_conf(config: Config) -> Collection[str]:
    """Return every name that ``conf.py`` binds, settings or not."""
    return config._raw_config.keys()


def building_nothing(app: Sphinx, status: int) -> None:
    """Have a build that has not begun do nothing but end with a status.

    It would not begin after an exception either, of which Sphinx 9 prints forty lines. Some
    extensions, galleries among them, do their work before the build: they are not called any more.
    """
    app.statuscode = status
    vars(app)["build"] = lambda *args, **options: None
    app.events.listeners.clear()


def refused_by_myst_nb(config: Config) -> Iterator[tuple[str, Any, str]]:
    """Yield each setting of myst-nb that myst-nb cannot obey, with its default and why.

    It would end the build with a traceback that may name neither the setting nor what is allowed.
    """
    for name, default, field in NbParserConfig().as_triple():
        if field.metadata.get("sphinx_exclude"):
            continue
        setting, older = f"nb_{name}", field.metadata.get("legacy_name")
        if older and config[older] != _UNSET:
            setting, default = older, _UNSET
        value = config[setting]
        try:
            NbParserConfig(**{name: value})
        except Exception:
            yield setting, default, f"is {value!r}; it must be {_in_words(field.type)}"
            continue
        if name in _REGULAR_EXPRESSIONS:
            for pattern in [value] if isinstance(value, str) else value:
                try:
                    re.compile(pattern)
                except re.error as exc:
                    yield setting, default, f"has {pattern!r}, no regular expression: {exc}"


def _in_words(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(repr, get_args(annotation)))
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return f"of the type {name.replace('typing.', '')}"


def text_as_read(app: Sphinx, docname: str, text: str) -> str:
    """Return the text of a page as the handlers of ``source-read`` change it, before it is read.

    A handler that raises will raise again when Sphinx reads the page, and ends the build then.
    """
    if not app.events.listeners.get("source-read"):
        return text
    source = [text]
    app.env.prepare_settings(docname)
    try:
        app.emit("source-read", docname, source)
    except Exception:
        return text
    finally:
        app.env.temp_data.clear()
    return source[0]
