"""The Jinja environment that `ptft_jax.data.sandbox` runs templates in.

Imports Jinja, which takes time: to be imported only where there is a template to run.
"""

from __future__ import annotations

import datetime
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import jinja2
from jinja2 import ext, filters, nodes, runtime, sandbox, utils, visitor

from ptft_jax.data import provenance
from ptft_jax.data.budget import STEP, Budget, check_filter, check_method, check_operation

# What a template may use, by what it costs: a step; what it is given at its surface; or all the way down.
FREE_FILTERS = (
    "count", "d", "default", "first", "last", "length",
)  # fmt: skip
SHALLOW_FILTERS = (
    "int", "float", "items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "abs",
    "round",
)  # fmt: skip
DEEP_FILTERS = (
    "capitalize", "dictsort", "e", "escape", "forceescape", "groupby", "indent", "join", "lower", "max", "min",
    "replace", "safe", "sort", "string", "sum", "title", "tojson", "trim", "unique", "upper", "wordcount",
)  # fmt: skip
DEEP_TESTS = (
    "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan", "lt", "ne", "==", "!=", "<", "<=", ">", ">=",
)  # fmt: skip
# Filters that make texts otherwise than by the methods of the texts that they are given.
SHADOWED_FILTERS = ("e", "escape", "forceescape", "indent", "safe", "title")
STRING_METHODS = (
    "capitalize", "casefold", "count", "endswith", "find", "format", "index", "isalnum", "isalpha", "isascii",
    "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "ljust", "lower",
    "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition",
    "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper", "zfill",
)  # fmt: skip
METHODS = {
    str: STRING_METHODS,
    dict: ("copy", "get", "items", "keys", "values"),
    list: ("copy", "count", "index"),
    tuple: ("count", "index"),
}


class Mark(str):
    """Where a generation block starts or ends: an empty piece of the rendered text.

    It is written straight to the output, so that no template ever holds one; where the output is gathered into a value
    (a macro, a set, call or filter block) it is joined away.

    Attributes:
      starts: else it ends a block.
      values: of the variables of the loops around, innermost first.
    """

    starts: bool
    values: tuple

    @classmethod
    def of(cls, starts: bool, values: tuple = ()) -> Mark:
        mark = cls()
        mark.starts, mark.values = starts, values
        return mark

    def __str__(self):
        return self


class Generation(ext.Extension):
    """Marks what the assistant said. Its own scope, as where Hugging Face renders it."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        self.environment.marks = True

        def mark(name):  # the list: Bounds puts the variables of loops into it
            values = nodes.List([], lineno=line)
            return nodes.Output([_filter(nodes.Const("", lineno=line), name, [values])], lineno=line)

        return [mark("generation starts"), nodes.Scope(body, lineno=line), mark("generation ends")]


class Bounds(visitor.NodeTransformer):
    """Sends what Jinja compiles to plain Python through filters that pay for it."""

    def visit_For(self, node):
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        targets = [node.target] if isinstance(node.target, nodes.Name) else node.target.find_all(nodes.Name)
        names = [target.name for target in targets]
        for mark in node.find_all(nodes.Filter):
            if mark.name == "generation starts":
                mark.args[0].items.extend(nodes.Name(name, "load", lineno=mark.lineno) for name in names)
        node = self.generic_visit(node)
        node.iter = _filter(node.iter, "each turn", [nodes.Const(STEP + text)])
        return node

    def visit_Concat(self, node):
        node = self.generic_visit(node)
        return _filter(node.nodes[0], "joined text", node.nodes[1:])

    def visit_Compare(self, node):
        node = self.generic_visit(node)
        node.expr = _filter(node.expr, "paid for", [])
        for operand in node.ops:
            operand.expr = _filter(operand.expr, "paid for", [])
        return node

    def visit_Getitem(self, node):
        node = self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        parts = [part or nodes.Const(None) for part in (node.arg.start, node.arg.stop, node.arg.step)]
        return _filter(node.node, "paid slice", parts)

    def visit_Include(self, node):
        raise jinja2.TemplateSyntaxError("a chat template stands alone: it may not read others", node.lineno)

    visit_Import = visit_FromImport = visit_Extends = visit_Include

    def visit_Pair(self, node):
        node = self.generic_visit(node)
        node.key = _filter(node.key, "paid for", [])  # hashing nested tuples takes long
        return node

    def visit_NSRef(self, node):
        if node.attr.startswith("_"):
            raise jinja2.TemplateSyntaxError(f"a namespace has no {node.attr!r}", node.lineno)
        return node


def _filter(value, name, arguments):
    return nodes.Filter(value, name, arguments, [], None, None, lineno=value.lineno)


class Environment(sandbox.ImmutableSandboxedEnvironment):
    """Compiles and runs templates with no more than the names above, and pays for what they do.

    Attributes:
      budget: what is left to the template that runs. Nothing at first: whoever renders puts one in.
      marks: whether a template compiled here has generation blocks.
      started: how many such blocks were started; whoever renders resets it.
    """

    intercepted_binops = frozenset(sandbox.SandboxedEnvironment.default_binop_table)

    def __init__(self, now: datetime.datetime | None = None):
        """`now` is the time that a template finds it to be, None = what it is."""
        self.budget = Budget(0)
        self.marks, self.started = False, 0
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # else constants are computed when compiling, before there is a budget
            extensions=[Generation, "jinja2.ext.loopcontrols"],
        )
        own = {"join": _join, "string": _string, "tojson": _to_json}
        known, tests = {**self.filters, **own}, self.tests
        self.concat = provenance.joined
        # With a space in their names: a template that could name them could pay with less than nothing.
        self.filters = {
            "each turn": self._each,
            "joined text": self._concat,
            "paid slice": self._slice,
            "paid for": self._paid,
            "generation starts": self._generation_starts,
            "generation ends": lambda value, values: Mark.of(False),
        }
        for names, depth in ((FREE_FILTERS, None), (SHALLOW_FILTERS, False), (DEEP_FILTERS, True)):
            self.filters |= {name: _paying(self, name, known[name], depth) for name in names}
        self.tests = {
            name: _paying(self, name, test, True if name in DEEP_TESTS else None)
            for name, test in tests.items()
            if name not in ("filter", "test")
        }
        self.finalize = self._finalize
        self.globals = {
            "range": sandbox.safe_range,
            "dict": dict_,
            "namespace": namespace,
            "cycler": utils.Cycler,
            "joiner": utils.Joiner,
            "raise_exception": raise_exception,
            "strftime_now": lambda form: (now or datetime.datetime.now()).strftime(form),
        }

    def _parse(self, source, name, filename):
        return Bounds().visit(super()._parse(source, name, filename))

    def unsafe_undefined(self, obj, attribute):
        raise sandbox.SecurityError(f"a template may not look at {_type(obj).__name__}.{attribute}")

    def getitem(self, obj, argument):
        if isinstance(argument, tuple):
            self.budget.pay_for(argument)
        return super().getitem(obj, argument)

    def call_binop(self, context, operator, left, right):
        self.budget.pay_for(left, right, deep=operator == "%")
        check_operation(self.budget, operator, left, right)
        operation = functools.partial(super().call_binop, context, operator)
        if operator == "%" and isinstance(left, str):
            result = provenance.shadowed(operation, (left, right), {})
        else:
            result = provenance.closed(operation(left, right), left, right)
        self.budget.pay_for(result, deep=False)
        return result

    def call(__self, __context, __obj, *args, **kwargs):  # keyword arguments may have any name
        budget = __self.budget
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        passed_on = isinstance(__obj, (runtime.Macro, runtime.BlockReference, runtime.LoopContext))
        budget.pay_for(*args, kwargs, deep=not passed_on)
        if (kind := _type(owner)) in METHODS:
            if name not in METHODS[kind]:
                raise sandbox.SecurityError(f"a template may not call {kind.__name__}.{name}")
            budget.pay_for(owner, deep=kind is not dict)
            check_method(budget, owner, name, args)
            if kind is str and name == "format":
                result = provenance.shadowed(__self._formatted, (owner, *args), kwargs)
                budget.pay_for(result, deep=False)
                return result
            if kind is str:
                __obj = getattr(provenance.lifted(owner), name)
        elif isinstance(__obj, runtime.LoopContext):  # a recursive loop
            args = (_Each(args[0], __self, STEP), *args[1:]) if args else args
        elif not (
            isinstance(__obj, (runtime.Macro, runtime.BlockReference, utils.Joiner, jinja2.Undefined))
            or isinstance(owner, (runtime.LoopContext, utils.Cycler))
            or any(__obj is value for value in __self.globals.values())
        ):
            raise sandbox.SecurityError(f"a template may not call {name or type(__obj).__name__}")
        result = super().call(__context, __obj, *args, **kwargs)
        budget.pay_for(result, deep=False)
        return result

    # What Bounds puts into the program.

    def _each(self, values, cost):
        return _Each(values, self, cost)

    def _formatted(self, form, *args, **kwargs):
        return self.wrap_str_format(form.format)(*args, **kwargs)

    def _concat(self, *values):
        self.budget.pay_for(*values)
        return provenance.joined(values)

    def _slice(self, value, *parts):
        self.budget.pay_for(value, deep=False)
        return self.getitem(value, slice(*parts))

    def _paid(self, value):
        self.budget.pay_for(value)
        return value

    def _generation_starts(self, value, values):
        self.budget.pay(STEP)
        self.started += 1
        return Mark.of(True, tuple(values))

    @jinja2.pass_context
    def _finalize(self, _, value):  # with a context, Jinja cannot call it when compiling
        self.budget.pay_for(value)
        return provenance.as_text(value)


def raise_exception(message):
    raise jinja2.TemplateError(f"the template refuses this conversation: {message}")


def dict_(*args, **kwargs):
    return dict(*args, **kwargs)


def namespace(*args, **kwargs):
    values = dict(*args, **kwargs)
    for name in values:
        if not isinstance(name, str) or name.startswith("_"):
            raise sandbox.SecurityError(f"a namespace has no {name!r}")
    return utils.Namespace(values)


class _Each:
    """What a loop goes over: every turn is paid for."""

    def __init__(self, values: Any, environment: Environment, cost: int):
        self._values, self._environment, self._cost = values, environment, cost

    def __len__(self) -> int:
        return len(self._values)  # TypeError where it has none, which Jinja expects

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            self._environment.budget.pay(self._cost)
            yield value


def _paying(environment: Environment, name: str, function: Callable, deep: bool | None) -> Callable:
    """A filter or test that pays for what it is given and what it makes; None: a step only."""

    def followed(*args, **kwargs):
        if name in SHADOWED_FILTERS:
            return provenance.shadowed(function, args, kwargs)
        made = function(*map(_lifted, args), **{key: _lifted(value) for key, value in kwargs.items()})
        return provenance.closed(made, *args, *kwargs.values())

    @functools.wraps(function)  # with the attributes by which Jinja knows what to pass first
    def paying(*args, **kwargs):
        budget = environment.budget
        if deep is None:
            budget.pay(STEP)
            return followed(*args, **kwargs)
        budget.pay_for(*args, kwargs, deep=deep)
        check_filter(budget, name, args, kwargs)
        result = followed(*args, **kwargs)
        if isinstance(result, types.GeneratorType):
            result = list(result)
        budget.pay_for(result, deep=False)
        return result

    return paying


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """As Hugging Face's: Jinja's own escapes HTML."""
    options = dict(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return provenance.to_json(value, **options)


@jinja2.pass_environment
def _join(environment, value, d="", attribute=None):
    """As Jinja's without autoescape."""
    if attribute is not None:
        value = map(filters.make_attrgetter(environment, attribute), value)
    return provenance.joined(value, d)


def _string(value):
    return provenance.as_text(value) if isinstance(value, (str, dict, list, tuple)) else str(value)


def _lifted(value):
    return provenance.lifted(value) if type(value) is str else value


def _type(value):
    return str if isinstance(value, provenance.Text) else type(value)
