"""How a section of the config is declared: a class with a typed field per setting.

    class OptimizerOptions(Options):
        learning_rate: float = declared(natural(0.0, "peak rate"))

The classes stand in files `options.py` beside the code that reads them, and import no more than this. `ptft_jax.config.tree`
joins them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

from ptft_jax.config.field import Field

if TYPE_CHECKING:
    from collections.abc import KeysView
    from contextlib import AbstractContextManager

_DECLARED = "setting"  # of a dataclass field's metadata


@dataclass_transform(kw_only_default=True)
class Options:
    """A section of the config: every subclass is a frozen dataclass, whose fields are `declared`, `required` or a `section`.

    It is also the type of that section in a config (`ptft_jax.config.tree.Config`), for editors and type checkers. To them its
    fields can be set. When a program runs, a config is a ConfigDict while it is made, and a `ptft_jax.config.Section` once it is
    checked; what is most used of both is here.
    """

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True)(cls)

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

        @property
        def update(self) -> type[Self]: ...  # that is to say: the arguments of the class, by name
        def __getitem__(self, name: str) -> Any: ...
        def __setitem__(self, name: str, value: Any) -> None: ...
        def __contains__(self, name: str) -> bool: ...
        def keys(self) -> KeysView[str]: ...
        def get(self, name: str, default: Any = None) -> Any: ...
        def to_dict(self) -> dict[str, Any]: ...
        def unlocked(self) -> AbstractContextManager[Any]: ...

        @property
        def tables(self) -> Any: ...
        def read_all(self) -> dict[str, Any]: ...


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
