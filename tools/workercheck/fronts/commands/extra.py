"""What starts kernels and reads pages, with Sphinx or without: two extras of workercheck."""

from __future__ import annotations

import importlib.util

_NEEDED = ("ipykernel", "jupytext", "nbclient", "nbformat", "yaml")
_SPHINX = ("myst_nb", "sphinx")


def missing(purpose: str, *, with_sphinx: bool = False) -> str:
    """Say what keeps pages from being run, empty where nothing does.

    Parameters
    ----------
    purpose
        What cannot be done without, as the end of a sentence.
    with_sphinx
        Whether Sphinx is needed too.
    """
    needed = (*_NEEDED, *_SPHINX) if with_sphinx else _NEEDED
    names = [name for name in needed if importlib.util.find_spec(name) is None]
    if not names:
        return ""
    *others, last = names
    which = f"{', '.join(others)} and {last} are" if others else f"{last} is"
    return (
        f"workercheck: cannot {purpose}: {which} missing. "
        f"Install the extra: pip install 'workercheck[{'sphinx' if with_sphinx else 'notebooks'}]'"
    )
