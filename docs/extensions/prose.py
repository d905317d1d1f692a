"""A page's prose as plain Markdown, for readers of its notebook and its script."""

from __future__ import annotations

import re
from collections.abc import Callable

BOXES = frozenset(
    {"admonition", "attention", "caution", "danger", "details", "dropdown", "error", "hint"}
    | {"important", "note", "seealso", "tip", "warning"}
)
CODE = frozenset({"code", "code-block", "sourcecode", "parsed-literal"})

_DIRECTIVE = re.compile(r"^(?P<mark>`{3,}|~{3,}|:{3,})\{(?P<name>[\w:-]+)\}\s*(?P<argument>.*)$")
_FENCE = re.compile(r"^\s*(?P<mark>`{3,}|~{3,})")
# Whichever begins first: a link's text may hold code, and code may hold what looks like a link.
_LINK_OR_CODE = re.compile(
    r"(?P<code>(?P<ticks>`+)[^`]+(?P=ticks))"
    r"|(?<!!)\[(?P<text>[^\]]*)\]\((?P<target><[^>]*>|[^)\s]*)\)"
)
_ROLE = re.compile(r"\{[\w:-]+\}`(?P<text>[^`]*)`")
_TITLED = re.compile(r"^(?P<title>.*?)\s*<(?P<target>[^>]*)>$", re.DOTALL)


def plain(text: str, address: Callable[[str], str]) -> str:
    """Return MyST Markdown as Markdown that every notebook shows.

    Parameters
    ----------
    text
        What stands between two code cells of a page.
    address
        Returns the address of the target of a link; empty where only this site has it, and
        only the link's text remains.

    Returns
    -------
    str
        Boxes as quotations, code as code, containers as what they hold, roles as their text; other
        directives are left out.
    """
    out: list[str] = []
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if directive := _DIRECTIVE.match(line):
            end = _closing(lines, at, directive["mark"])
            out += _directive(directive["name"], directive["argument"], lines[at:end], address)
            at = end + 1
        elif fence := _FENCE.match(line):
            end = _closing(lines, at, fence["mark"])
            out += lines[at - 1 : end + 1]
            at = end + 1
        elif not re.match(r"^(\([^)]+\)=\s*$|% )", line):  # labels and comments
            out.append(_inline(line, address))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip("\n")


def _closing(lines: list[str], start: int, mark: str) -> int:
    for number in range(start, len(lines)):
        line = lines[number].strip()
        if line.startswith(mark) and set(line) == {mark[0]}:
            return number
    return len(lines)


def _directive(
    name: str, argument: str, body: list[str], address: Callable[[str], str]
) -> list[str]:
    while body and re.match(r"^:[\w-]+:", body[0]):
        body = body[1:]
    if name in CODE:
        return [f"```{argument}", *body, "```"]
    if name == "math":
        return ["$$", *body, "$$"]
    if name == "container":  # its argument only says how the site shows it
        return [plain("\n".join(body), address)]
    if name not in BOXES:
        return []
    title = name.capitalize() if not argument else _inline(argument, address)
    inner = plain("\n".join(body), address).split("\n")
    return [f"> **{title}**", ">", *(f"> {line}".rstrip() for line in inner)]


def _inline(line: str, address: Callable[[str], str]) -> str:
    return _LINK_OR_CODE.sub(lambda match: _link(match, address), _ROLE.sub(_role, line))


def _role(match: re.Match[str]) -> str:
    titled = _TITLED.match(match["text"])
    if titled and titled["title"]:
        return titled["title"]
    text = match["text"]
    return f"`{text.rpartition('.')[2] if text.startswith('~') else text}`"


def _link(match: re.Match[str], address: Callable[[str], str]) -> str:
    if match["code"]:
        return match["code"]
    target = match["target"].strip("<>").removeprefix("project:")
    if not target.startswith(("http:", "https:")):
        target = address(target)
    return f"[{match['text']}]({target})" if target else match["text"]
