"""Arrays that are read as one where they lie, beside one array of all."""

import resource

import numpy as np
import pytest

from ptft_jax.data import store, store_writer, token_folder
from ptft_jax.data.examples import Encoded
from ptft_jax.data.joined import Joined, blocks, head
from ptft_jax.data.token_folder import joined
from ptft_jax.errors import UserError

SIZES = (3, 0, 5, 1, 4)


def parts():
    starts = np.cumsum([0, *SIZES])
    return [np.arange(a, b, dtype=np.uint16) * 7 for a, b in zip(starts, starts[1:])]


def test_it_is_read_as_one():
    made, whole = Joined(parts()), np.arange(13, dtype=np.uint16) * 7
    assert len(made) == 13 and made.dtype == np.uint16 and made.shape == (13,)
    np.testing.assert_array_equal(np.asarray(made), whole)
    for start in range(-14, 15):
        for stop in (*range(-14, 15), None):
            found = made[start:stop]
            assert found.dtype == np.uint16
            np.testing.assert_array_equal(found, whole[start:stop])
    rng = np.random.default_rng(0)
    for places in (rng.integers(-13, 13, 40), rng.integers(0, 13, (3, 5)), np.zeros(0, np.int64), whole > 20, 12, -1):
        np.testing.assert_array_equal(made[places], whole[places])
    for count in range(14):
        np.testing.assert_array_equal(np.asarray(head(made, count)), whole[:count])
    np.testing.assert_array_equal(np.concatenate(list(blocks(made))), whole)
    for bad in ([13], [-14], 99):
        with pytest.raises(IndexError, match="places among 13"):
            made[bad]


def written(folder, examples, *, keyed=True):
    writer = store_writer.Writer(folder, 300, keyed=keyed)
    keys = np.arange(2 * len(examples), dtype=np.uint64).reshape(-1, 2)
    writer.add(examples, range(10, 10 + len(examples)), keys if keyed else None)
    writer.close("k")
    return store.load(folder)


def ids(*numbers):
    return np.asarray(numbers, np.int32)


MASKED = Encoded(ids(1, 2, 3), np.array([False, True, True]), empty=(1,))
KINDS = {
    "text, some of it learned": ([Encoded(ids(4, 5, 6, 7))], [MASKED, Encoded(ids(9))]),
    "classes": ([Encoded(ids(4, 5), label=2), Encoded(ids(6), label=0)], [Encoded(ids(1, 2, 3), label=1)]),
    "pairs": tuple([Encoded(ids(n, 5), rejected=Encoded(ids(n, 6, 7)))] for n in (1, 2)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_stores_are_as_one_that_took_them(kind, tmp_path, cache):
    shards = [written(tmp_path / str(n), examples) for n, examples in enumerate(KINDS[kind])]
    writer = store_writer.Writer(tmp_path / "all", 300, keyed=True)
    for number in range(len(shards)):
        writer.take(tmp_path / str(number))
    writer.close("key")
    expected, found = store.load(tmp_path / "all"), joined(shards, "key")
    for of in (lambda one: one, lambda one: one.first(5, cut=kind.startswith("text"))):
        for name in ("ids", "offsets", "trained", "labels", "origins", "empty", "keys", "right"):
            mine, theirs = (getattr(of(one), name) for one in (found, expected))
            assert (mine is None) == (theirs is None), name
            if theirs is not None:
                assert mine.dtype == theirs.dtype, name
                np.testing.assert_array_equal(np.asarray(mine), theirs, err_msg=name)
        assert of(found).key == of(expected).key and found.per_example == expected.per_example
    spans = np.stack([expected.offsets[:-1], expected.offsets[1:]], axis=1)
    np.testing.assert_array_equal(found.learned(spans, first=False), expected.learned(spans, first=False))
    np.testing.assert_array_equal(found.same(spans, spans[::-1]), expected.same(spans, spans[::-1]))


def test_more_shards_than_files_may_be_open(monkeypatch):
    limits = {"soft": 300, "hard": 5000}

    def changed(_, new):
        limits["soft"], limits["hard"] = new

    monkeypatch.setattr(resource, "getrlimit", lambda _: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(resource, "setrlimit", changed)
    token_folder._allow_files(40, "few")
    assert limits == {"soft": 300, "hard": 5000}
    token_folder._allow_files(4096, "512 shards")
    assert 4096 < limits["soft"] <= limits["hard"] == 5000
    with pytest.raises(UserError, match="700 shards need .* this system allows 5000 .*prepare with fewer --shards"):
        token_folder._allow_files(5600, "700 shards")
