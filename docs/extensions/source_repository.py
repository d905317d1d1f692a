"""Find out where the sources are hosted, which only the machine that builds the site knows."""

import re
import subprocess
from urllib.parse import urlsplit

# Those whose addresses for editing a file the theme knows.
HOSTS = ("github.com", "gitlab.com", "bitbucket.org")


def theme_options(environ, folder):
    """Return the options with which furo links each page to its source.

    Without any where the address is not known, such as in a clone of a local folder:
    no link is better than one that leads nowhere.

    Parameters
    ----------
    environ : Mapping
        The environment; Read the Docs tells the address and the branch in it.
    folder : Path
        The folder of ``conf.py``, in a clone.
    """
    address = environ.get("READTHEDOCS_GIT_CLONE_URL") or git(folder, "remote", "get-url", "origin")
    # git@host:owner/name and https://user:token@host/owner/name; neither name goes into a page.
    parts = urlsplit(re.sub(r"^[\w.-]+@([\w.-]+):", r"https://\1/", address))
    if parts.hostname not in HOSTS:
        return {}
    path = parts.path.removesuffix("/").removesuffix(".git")
    root = git(folder, "rev-parse", "--show-prefix")
    # A tag or a pull request cannot be edited there.
    is_branch = environ.get("READTHEDOCS_VERSION_TYPE") == "branch"
    return {
        "source_repository": f"https://{parts.hostname}{path}/",
        "source_branch": environ["READTHEDOCS_GIT_IDENTIFIER"] if is_branch else "main",
        "source_directory": root or "docs/source/",
    }


def git(folder, *arguments):
    """Return what git prints, nothing where it fails or is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
