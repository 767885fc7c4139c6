"""Which models of a zoo: a condition on fields of their records, as `attack == "blended" and not weak`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from detrigger.errors import UsageError

Condition = Callable[[Mapping[str, Any]], bool]

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, among: value in among,
    ast.NotIn: lambda value, among: value not in among,
}


def condition(text: str, fields: Collection[str]) -> Condition:
    """A test of records; it is read, never run as code.

    Known are names of `fields` (None where a record has none), numbers, texts, True, False, None, lists of
    these, comparisons, `in`, `and`, `or`, `not`. An ordering with None is false.
    Raises UsageError for anything else.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UsageError(f"--where {text!r} cannot be read; {_WANTED}") from error
    _check(tree, text, fields)
    return lambda record: bool(_value(tree, record))


_WANTED = """wanted a condition such as 'attack == "blended" and not weak'"""


def _check(node: ast.expr, text: str, fields: Collection[str]) -> None:
    match node:
        case ast.Constant(value=str() | int() | float() | bool() | None):
            return
        case ast.Name(id=name) if name in fields:
            return
        case ast.Name(id=name):
            raise UsageError(
                f"--where: records have no field {name!r}; they have {', '.join(sorted(fields))}"
            )
        case ast.BoolOp(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
            below = parts
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=one):
            below = [one]
        case ast.Compare(left=left, ops=kinds, comparators=others) if all(
            type(k) in _COMPARISONS for k in kinds
        ):
            below = [left, *others]
        case _:
            raise UsageError(f"--where: {ast.unparse(node)!r} is not understood; {_WANTED}")
    for part in below:
        _check(part, text, fields)


def _value(node: ast.expr, record: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return record.get(name)
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, record) for part in parts]
        case ast.UnaryOp(op=ast.Not(), operand=one):
            return not _value(one, record)
        case ast.UnaryOp(operand=one):
            return -_value(one, record)
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_value(part, record) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_value(part, record) for part in parts)
        case ast.Compare(left=left, ops=kinds, comparators=others):
            values = [_value(part, record) for part in (left, *others)]
            return all(_holds(k, a, b) for k, a, b in zip(kinds, values, values[1:], strict=False))
    raise UsageError(f"--where: {ast.unparse(node)!r} is not understood; {_WANTED}")


def _holds(kind: ast.cmpop, left: Any, right: Any) -> bool:
    try:
        return _COMPARISONS[type(kind)](left, right)
    except TypeError as error:
        if left is None or right is None:
            return False
        raise UsageError(f"--where: {left!r} and {right!r} cannot be compared so; {_WANTED}") from error
