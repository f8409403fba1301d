"""``--where``: a small language of comparisons over an image's record. Never ``eval``.

    score >= 70 and std < 8 and width >= 1024
    "cat" in lower(prompt) or seed is None
    generator in ("ComfyUI", "A1111") and not 20 <= steps <= 30

Python's grammar, parsed with the standard library's ``ast`` and walked here; anything that is not a
comparison, arithmetic on numbers or one of three functions is refused. A value an image does not
have makes the comparison unknown, as NULL does in SQL, and an unknown image is not kept.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..artimuse_core.errors import UsageError

MAX_LENGTH = 2000
"""Characters; deeper nesting than fits here is nobody's intention."""

_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "lower": lambda text: text.lower(),
    "len": len,
    "abs": abs,
}


@dataclass(frozen=True)
class Condition:
    """A parsed ``--where``; call :meth:`holds` with a record's values."""

    text: str
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str, examples: Mapping[str, Any]) -> Condition:
        """``examples`` maps each known name to a value of its type.

        Raises UsageError for what is no such condition, for unknown names, and for comparisons of
        text with numbers, before any image is looked at.
        """
        if len(text) > MAX_LENGTH:
            raise UsageError(f"--where has {len(text)} characters; expected at most {MAX_LENGTH}")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise UsageError(
                f"cannot read --where {text!r}: expected comparisons such as "
                "'score >= 70 and width >= 1024'"
            ) from error
        condition = cls(text, tree)
        _check(tree, examples)
        try:
            answer = _value(tree, examples)
        except (TypeError, AttributeError, OverflowError) as error:
            raise UsageError(f"--where {text!r} makes no sense: {error}") from error
        if not isinstance(answer, bool) and answer is not None:
            raise UsageError(f"--where {text!r} gives a value, not a yes or no; compare it")
        return condition

    @property
    def names(self) -> frozenset[str]:
        """What it asks about."""
        return frozenset(node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name))

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether an image with these values is to be kept. Missing values (None) say no."""
        return _value(self._tree, values) is True


def _check(node: ast.expr, names: Mapping[str, Any]) -> None:
    """Refuse everything that :func:`_value` does not know, wherever it stands."""
    match node:
        case ast.BoolOp(values=parts):
            children = parts
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
            children = [operand]
        case ast.Compare(left=left, ops=ops, comparators=right):
            for one, other in zip(ops, right, strict=True):
                is_none = isinstance(other, ast.Constant) and other.value is None
                known = type(one) in _COMPARE or (isinstance(one, (ast.Is, ast.IsNot)) and is_none)
                if not known:
                    raise UsageError(f"--where: {ast.unparse(node)!r} is no comparison known here")
            children = [left, *right]
        case ast.BinOp(left=left, op=op, right=other) if type(op) in _ARITHMETIC:
            children = [left, other]
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            children = [argument]
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            children = elements
        case ast.Name(id=name):
            if name not in names:
                raise UsageError(
                    f"--where: unknown name {name!r}; known: {', '.join(sorted(names))}"
                )
            return
        case ast.Constant(value=None | bool() | int() | float() | str()):
            return
        case _:
            raise UsageError(
                f"--where: {ast.unparse(node)!r} is not allowed; use comparisons, and/or/not, "
                f"+ - * / %, in, is None and {', '.join(_FUNCTIONS)}"
            )
    for child in children:
        _check(child, names)


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """The value of a checked expression; None where it is unknown."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values.get(name)
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return [_value(element, values) for element in elements]
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            given = _value(argument, values)
            return None if given is None else _FUNCTIONS[name](given)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            given = _value(operand, values)
            return None if given is None else not given
        case ast.UnaryOp(op=op, operand=operand):
            given = _value(operand, values)
            if given is None:
                return None
            return -given if isinstance(op, ast.USub) else +given
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(op, _value(left, values), _value(right, values))
        case ast.BoolOp(op=op, values=parts):
            return _junction((_value(part, values) for part in parts), isinstance(op, ast.Or))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            operands = [_value(side, values) for side in (left, *comparators)]
            pairs = zip(operands, ops, operands[1:], strict=False)
            return _junction((_compare(op, one, two) for one, op, two in pairs), False)
    raise AssertionError(ast.dump(node))


def _junction(answers: Any, stop: bool) -> bool | None:
    """``or`` (stop at True) and ``and`` (stop at False) over yes, no and unknown."""
    unknown = False
    for answer in answers:
        if answer is None:
            unknown = True
        elif bool(answer) is stop:
            return stop
    return None if unknown else not stop


def _compare(op: ast.cmpop, left: Any, right: Any) -> bool | None:
    if isinstance(op, (ast.Is, ast.IsNot)):
        return (left is None) is isinstance(op, ast.Is)
    if left is None or right is None:
        return None
    if isinstance(op, (ast.Eq, ast.NotEq)) and isinstance(left, str) != isinstance(right, str):
        raise TypeError(f"cannot compare {left!r} with {right!r}")
    return bool(_COMPARE[type(op)](left, right))


def _arithmetic(op: ast.operator, left: Any, right: Any) -> Any:
    if left is None or right is None:
        return None
    for side in (left, right):
        if not isinstance(side, (int, float)):
            raise TypeError(f"expected a number, got {side!r}")
    try:
        return _ARITHMETIC[type(op)](left, right)
    except ZeroDivisionError:
        return None
