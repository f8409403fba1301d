"""Reads pickles that hold plain data, and nothing else.

A pickle is a program. This reader looks at the whole program before any of it runs, admits only the
instructions that build containers, numbers, strings and bytes, and bounds their number, so that
neither code, nor a small body that claims gigabytes, nor endless nesting gets through.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, NoReturn

from .errors import ArtiMuseError
from .images import one_line

MAX_OPCODES = 100_000
"""Three or so an image; a bound on the time a hostile body can take."""
MAX_TUPLES = 1_000
"""Tuples are hashed recursively in C, without a bound of its own."""

_PLAIN = frozenset(
    "PROTO FRAME STOP MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 "
    "EMPTY_LIST APPEND APPENDS LIST EMPTY_DICT SETITEM SETITEMS DICT EMPTY_SET ADDITEMS".split()
)
_TUPLES = frozenset("EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 FROZENSET".split())


class PickleError(ArtiMuseError):
    """The body is no pickle, or one that holds more than plain data."""


class _NoGlobals(pickle.Unpickler):
    """The second lock: nothing is imported even if the scan had a hole."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise PickleError(f"refused: the pickle asks for {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise PickleError("refused: the pickle asks for a persistent object")


def loads(data: bytes) -> Any:
    """Containers, numbers, str and bytes. Raises PickleError with one line for anything else."""
    try:
        _scan(data)
        return _NoGlobals(io.BytesIO(data)).load()
    except PickleError:
        raise
    except Exception as error:  # the standard library raises a dozen kinds on bad data
        raise PickleError(f"not a pickle of plain data: {one_line(error)}") from error


def _scan(data: bytes) -> None:
    tuples = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in _TUPLES:
            tuples += 1
        elif opcode.name not in _PLAIN:
            raise PickleError(
                f"refused: the pickle holds {opcode.name}; expected builtin containers, numbers, "
                "str and bytes only (protocol 3 or newer; no numpy)"
            )
        if count >= MAX_OPCODES or tuples > MAX_TUPLES:
            raise PickleError("refused: the pickle holds too many objects")
        # The unpickler allocates as many memo slots as the largest index asks for.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > count:
            raise PickleError("refused: the pickle's memo index is out of bounds")
