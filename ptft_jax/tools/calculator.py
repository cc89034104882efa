"""Arithmetic for a model: exact, and bounded whatever it writes."""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, ClassVar

from ptft_jax.tools.base import Tool

_CHARACTERS = 200  # of an expression
_BITS = 4096  # of a numerator or denominator
_WORDS = {"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**"}  # as people and models write them
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # 1,234
_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Calculator(Tool):
    """The value of an expression of numbers, + - * / // % ** and parentheses."""

    bounded: ClassVar[bool] = True

    def __init__(self, digits: int = 12):
        self._digits = digits

    def call(self, *text: str, **arguments: Any) -> str:
        """Takes a text, or the argument `expression`. Raises ValueError, ZeroDivisionError, OverflowError."""
        if len(text) + len(arguments) != 1 or (arguments and "expression" not in arguments):
            raise ValueError(f"expected the argument 'expression', got {', '.join(arguments) or 'none'}")
        [given] = (*text, *arguments.values())
        return self._shown(value(str(given)))

    def _shown(self, found: Fraction) -> str:
        if found.denominator == 1:
            return str(found.numerator)
        context = Context(prec=self._digits, Emin=-(10**6), Emax=10**6)
        rounded = context.divide(Decimal(found.numerator), Decimal(found.denominator)).normalize(context)
        return f"{rounded:f}" if abs(rounded.adjusted()) <= 15 else str(rounded)


def value(text: str) -> Fraction:
    """What an expression comes to, exactly. Raises ValueError for what is none, ZeroDivisionError, and OverflowError for numbers of more
    than 4096 bits."""
    if len(text) > _CHARACTERS:
        raise ValueError(f"an expression of more than {_CHARACTERS} characters")
    for word, meant in _WORDS.items():
        text = text.replace(word, meant)
    try:
        with warnings.catch_warnings():  # of what is nearly Python
            warnings.simplefilter("ignore")
            parsed = ast.parse(_GROUPED.sub("", text).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise ValueError("no arithmetic expression") from e
    return _value(parsed.body)


def _value(node: ast.AST) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            if number in (math.inf, -math.inf):
                raise OverflowError("a number that is too large")
            return _small(Fraction(repr(number)))  # 0.1 as it is written, not as it is stored
        case ast.UnaryOp(op=ast.UAdd()):
            return _value(node.operand)
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand)
        case ast.BinOp(op=ast.Pow()):
            return _power(_value(node.left), _value(node.right))
        case ast.BinOp() if type(node.op) in _BINARY:
            return _small(Fraction(_BINARY[type(node.op)](_value(node.left), _value(node.right))))
    raise ValueError("no arithmetic expression: only numbers, + - * / // % ** and parentheses")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError("a power that is no whole number")
    if abs(base) == 1:
        return base if exponent % 2 else Fraction(1)
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base and size * abs(exponent) > 2 * _BITS:  # before it is computed
        raise OverflowError("a number that is too large")
    return _small(base ** int(exponent)) if base else Fraction(0 if exponent > 0 else 1 / (exponent == 0))


def _small(found: Fraction) -> Fraction:
    if max(found.numerator.bit_length(), found.denominator.bit_length()) > _BITS:
        raise OverflowError("a number that is too large")
    return found
