"""What a call sends to workers, by the parameters that `workercheck.libraries` lists."""

from __future__ import annotations

import dataclasses as dc

from workercheck import libraries
from workercheck.libraries import Carrier, Library
from workercheck.lint.values import Constant, Value, elements

_ALL = [(library, carrier) for library in libraries.LIBRARIES for carrier in library.carriers()]

CARRIERS: dict[str, tuple[Library, Carrier]] = {
    f"{module}.{carrier.name}": (library, carrier)
    for library, carrier in _ALL
    for module in carrier.modules
}
"""What carries work, by each dotted name under which a page may call it."""

WITH_CONTEXTS: dict[str, Library] = {
    carrier.modules[0]: library for library, carrier in _ALL if carrier.name == "Process"
}
"""The modules that have ``get_context`` and ``set_start_method``."""


ROOTS = frozenset(name.partition(".")[0] for name in (*CARRIERS, *libraries.RUNNERS))
"""The packages of which one has to be named where work is handed out."""


@dc.dataclass(slots=True)
class Arguments:
    """What a call is given."""

    positional: list[Value]
    keywords: dict[str, Value]
    is_open: bool = False
    """Whether more may be given than the text tells, by ``*`` or ``**``."""


@dc.dataclass(slots=True)
class Taken:
    """What the parameters of a call take."""

    sent: list[Value] = dc.field(default_factory=list)
    by_name: dict[str, Value] = dc.field(default_factory=dict)
    context: Value = None
    has_context: bool = False
    library: Library | None = None
    """Whose workers do it, where an argument says so by name."""
    is_told: bool = True
    """Whether the arguments tell that worker processes do it."""


def take(parameters: str, given: Arguments) -> Taken:
    """Hand arguments to parameters, which are written as `workercheck.libraries.Carrier` says."""
    taken = Taken()
    positional, keywords = list(given.positional), dict(given.keywords)
    for word in parameters.split():
        name = word.strip("*!+@#~^")
        if word.startswith("**"):
            values, keywords = list(keywords.values()), {}
        elif word.startswith("*"):
            values, positional = positional, []
        elif positional:
            values = [positional.pop(0)]
        else:
            values = [keywords.pop(name)] if name in keywords else []
        # Who gives None leaves an argument out.
        values = [value for value in values if value != Constant(None)]
        if values and not word.startswith("*"):
            taken.by_name[name] = values[0]
        if word.endswith("!"):
            taken.sent += values
        if word.endswith("+"):
            taken.sent += [item for value in values for item in elements(value)]
        if word.endswith("#"):
            number = values[0].value if values and isinstance(values[0], Constant) else 1
            taken.is_told &= isinstance(number, int) and number not in (0, 1)
        if word.endswith("~"):
            taken.is_told &= not values and not given.is_open
        if word.endswith("^"):
            known = values[0].value if values and isinstance(values[0], Constant) else None
            taken.library = next((one for one in libraries.LIBRARIES if one.name == known), None)
            taken.is_told &= not given.is_open and (not values or taken.library is not None)
        # Dask takes True for the start method that it has anyway.
        if word.endswith("@") and (given.is_open or values not in ([], [Constant(True)])):
            taken.has_context = True
            taken.context = values[0] if values else None
    return taken
