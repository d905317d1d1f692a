"""Show a terminal in a page: files that are written, and commands that are really run."""

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from IPython.display import Markdown, display

# Kept until the kernel ends: it is removed then.
_folder = tempfile.TemporaryDirectory()
_LANGUAGES = {".csv": "text", ".md": "md", ".py": "python", ".rst": "rst"}


def file(name, text):
    """Write a file into the terminal's folder, and show it."""
    path = Path(_folder.name, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    _show(f"`{name}`", _LANGUAGES[path.suffix], text)


def terminal(command, *words, status):
    """Run a command, and show what it printed, which must have the words, and its exit status."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # A kernel asks programs for colours, which the page would show as control characters.
    plain = {"NO_COLOR": "1", "PY_COLORS": "0", "FORCE_COLOR": "", "CLICOLOR_FORCE": "0"}
    for _ in range(3):
        done = subprocess.run(
            command,
            shell=True,
            cwd=_folder.name,
            env={**os.environ, **plain, "PATH": programs, "COLUMNS": "44"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # jupyter_client chooses ports for a kernel that another program may take first.
        if "Address already in use" not in done.stdout:
            break
    lines = [f"$ {command}", *done.stdout.rstrip().splitlines(), "$ echo $?", str(done.returncode)]
    _show("", "console", "\n".join(lines))
    assert done.returncode == status, done.stdout
    assert all(word in done.stdout for word in words), done.stdout


def _show(above, language, text):
    code = textwrap.dedent(text).strip()
    display(Markdown(f"{above}\n\n````{language}\n{code}\n````"))
