"""What starts kernels and reads pages: the extra ``workercheck[notebooks]``."""

from __future__ import annotations

import importlib.util

_NEEDED = ("ipykernel", "jupytext", "nbclient", "nbformat", "yaml")


def missing(purpose: str) -> str:
    """Say what keeps pages from being run, empty where nothing does.

    Parameters
    ----------
    purpose
        What cannot be done without, as the end of a sentence.
    """
    names = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if not names:
        return ""
    return (
        f"workercheck: cannot {purpose}: {' and '.join(names)} missing. "
        "Install the extra: pip install 'workercheck[notebooks]'"
    )
