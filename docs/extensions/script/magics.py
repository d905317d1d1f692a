"""What only IPython understands, in plain Python."""

from __future__ import annotations

import ast
import re

from script.syntax import ScriptError


def without_magics(source: str) -> str:
    """Return the source of a cell with its magics in plain Python.

    Raises
    ------
    ScriptError
        For a magic that has no such form.
    """
    first, _, rest = source.partition("\n")
    if first.startswith("%%"):
        magic, _, argument = first[2:].strip().partition(" ")
        if magic == "writefile" and not argument.startswith("-"):
            quoted = _triple_quoted(rest.rstrip("\n") + "\n")
            return f"Path({argument.strip()!r}).write_text({quoted}, encoding='utf-8');"
        if magic in ("time", "timeit", "capture"):
            return f"# {first} (in a notebook)\n{without_magics(rest)}"
        raise ScriptError(
            f"{first!r} has no form in a script. Write it in Python, which works in both.", 1
        )
    try:
        ast.parse(source)
    except SyntaxError:
        lines = source.split("\n")
        return "\n".join(_line_without_magic(line, number) for number, line in enumerate(lines, 1))
    return source


def _line_without_magic(line: str, number: int) -> str:
    match = re.match(r"^(?P<indent>\s*)(?:%(?P<magic>\w+)\s*(?P<rest>.*)|!(?P<command>.+))$", line)
    if match is None:
        return line
    if match["command"]:
        return f"{match['indent']}subprocess.run({match['command'].strip()!r}, shell=True);"
    if match["magic"] in ("time", "timeit"):
        return match["indent"] + match["rest"]
    if match["magic"] in ("matplotlib", "load_ext", "config", "autoreload"):
        return f"{match['indent']}# %{match['magic']} {match['rest']} (in a notebook)"
    raise ScriptError(
        f"'%{match['magic']}' has no form in a script. Write it in Python, which works in both.",
        number,
    )


def _triple_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""\\\n{escaped}"""'
