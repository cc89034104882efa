"""What a run can start from has what is asked of it, whether it is a run or weights of another library."""

import inspect

import pytest

from ptft_jax.interop.pretrained import Pretrained
from ptft_jax.runs.parent import Parent
from ptft_jax.runs.source import Source

MEMBERS = {name for name in vars(Parent) if not name.startswith("_")}


@pytest.mark.parametrize("kind", [Source, Pretrained])
def test_it_has_every_member(kind):
    assert {"parameters", "lineage", "fields", "tokenizer", "name"} <= MEMBERS
    own = {*dir(kind), *inspect.get_annotations(kind)}
    assert own >= MEMBERS


@pytest.mark.parametrize("kind", [Source, Pretrained])
def test_parameters_takes_what_is_promised(kind):
    """Each keyword by its name, or among others."""
    promised, taken = (inspect.signature(one.parameters).parameters for one in (Parent, kind))
    others = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    assert all(
        name in taken or (others and p.kind is p.KEYWORD_ONLY)
        for name, p in promised.items()
        if p.kind is not p.VAR_KEYWORD
    )
