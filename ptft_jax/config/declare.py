"""How a section of the config is declared: a class with a typed field per setting.

    class OptimizerOptions(Options):
        learning_rate: float = declared(natural(0.0, "peak rate"))

The classes stand in files `options.py` beside the code that reads them, and import no more than this. `ptft_jax.config.tree`
joins them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar, dataclass_transform

from ptft_jax.config.field import Field

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_DECLARED = "setting"  # of a dataclass field's metadata
_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


class _Update:
    """`config.SECTION.update(NAME=VALUE, ...)`, with the names and types of the section's settings."""

    def __get__(self, instance: _Made, owner: Callable[_Given, _Made]) -> Callable[_Given, None]:
        raise NotImplementedError  # of type checkers alone


@dataclass_transform(kw_only_default=True)
class Options:
    """A section of the config: every subclass is a frozen dataclass, whose fields are `declared`, `required` or a `section`.

    It is also the type of that section in a config (`ptft_jax.config.tree.Config`), for editors and type checkers: to them its
    fields can be set, and it has the methods of a ConfigDict, which a config is when a program runs.
    """

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True)(cls)

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
        update: ClassVar[_Update]

        def __getitem__(self, name: str) -> Any: ...
        def __setitem__(self, name: str, value: Any) -> None: ...
        def __contains__(self, name: str) -> bool: ...
        def get(self, name: str, default: Any = None) -> Any: ...
        def to_dict(self) -> dict[str, Any]: ...
        def unlocked(self) -> AbstractContextManager[Any]: ...


def declared(field: Field) -> Any:
    """A field of `Options`. Its default is the setting's."""
    return dataclasses.field(default=field.default, metadata={_DECLARED: field})


def required(field: Field) -> Any:
    """As `declared`, of what only a config has a default for."""
    return dataclasses.field(metadata={_DECLARED: field})


def section(options: type[Options]) -> Any:
    """A field of `Options` that is a section of its own."""
    return dataclasses.field(default_factory=options, metadata={_DECLARED: options})


def fields_of(options: type[Options]) -> dict[str, Any]:
    """The settings that a section declares, by name: a `Field`, or such a dict of a section in it."""
    found = {f.name: f.metadata[_DECLARED] for f in dataclasses.fields(options) if _DECLARED in f.metadata}
    return {name: what if isinstance(what, Field) else fields_of(what) for name, what in found.items()}
