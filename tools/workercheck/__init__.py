"""Fail a documentation build when a worker process could not unpickle its work.

Add ``"workercheck"`` to ``extensions`` in ``conf.py``. Nothing is imported here that is not
needed: the interpreter of every kernel and worker passes through this file when it starts.

PYTEST_DONT_REWRITE: pytest rewrites the modules of its plugins, and warns of those that are
imported before it; the recorder is.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

__all__ = ["__version__", "setup"]
__version__ = "0.1.0"


def setup(app: "Sphinx") -> "ExtensionMetadata":
    """Register the extension with Sphinx."""
    try:
        from workercheck.fronts.sphinx import extension as sphinx_ext
    except ModuleNotFoundError as exc:
        from sphinx.errors import ExtensionError

        message = f"the extension needs what `pip install 'workercheck[sphinx]'` brings ({exc})"
        raise ExtensionError(message, exc, "workercheck") from exc
    return sphinx_ext.setup(app)


def _start() -> None:
    """Start the recorder in a process of a watched page (``workercheck.start``, PEP 829)."""
    if os.environ.get("WORKERCHECK_EVIDENCE"):
        from workercheck.recorder import process as _recorder

        _recorder.start()
