"""Where the time went: on a clock that is set by hand, every second is counted once."""

import threading
import time

import pytest

from ptft_jax.reporting.clock import PARTS, Clock, process_began, split


class Hand:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time

    def passes(self, seconds):
        self.time += seconds


@pytest.fixture
def hand():
    return Hand()


def parts(clock):
    """What is not 0."""
    return {part: seconds for part, seconds in clock.by_part.items() if seconds}


def test_every_second_belongs_to_the_innermost_part(hand):
    clock = Clock(hand)
    hand.passes(1.0)
    with clock("steps"):
        hand.passes(2.0)
        with clock("evaluation"):
            hand.passes(4.0)
            assert parts(clock) == {"other": 1.0, "steps": 2.0, "evaluation": 4.0}, "looked at in the middle"
            with clock("saving"):
                hand.passes(8.0)
            hand.passes(16.0)
        hand.passes(32.0)
        with clock("evaluation"):
            hand.passes(64.0)
    hand.passes(128.0)
    assert parts(clock) == {"other": 129.0, "steps": 34.0, "evaluation": 84.0, "saving": 8.0}
    assert sum(clock.by_part.values()) == 255.0 and list(clock.by_part) == list(PARTS)


def test_what_is_raised_closes_a_part(hand):
    clock = Clock(hand)
    with pytest.raises(KeyError), clock("steps"), clock("samples"):
        hand.passes(1.0)
        raise KeyError
    hand.passes(2.0)
    assert parts(clock) == {"samples": 1.0, "other": 2.0}
    with pytest.raises(ValueError, match="no part 'step': expected one of import, data"), clock("step"):
        pass


def test_what_is_compiled_is_no_part_of_what_it_happens_in(hand):
    clock = Clock(hand)
    with clock("steps"):
        hand.passes(1.0)
        hand.passes(2.0)
        clock.compiled(2.0, "trace")
        hand.passes(3.0)  # compiled
        clock.compiled(3.0)
        hand.passes(4.0)
    assert parts(clock) == {"steps": 5.0, "trace": 2.0, "compile": 3.0}


def test_what_is_compiled_within_what_is_compiled_counts_once(hand):
    clock = Clock(hand)
    with clock("evaluation"):
        hand.passes(1.0)
        start = hand.time
        for inner in (2.0, 4.0):
            hand.passes(0.5)
            hand.passes(inner)
            clock.compiled(inner)
        hand.passes(0.25)
        clock.compiled(hand.time - start, "trace")  # the whole, 7.25
        assert parts(clock) == {"evaluation": 1.0, "trace": 1.25, "compile": 6.0}
        hand.passes(8.0)
        clock.compiled(8.0)
    assert parts(clock) == {"evaluation": 1.0, "trace": 1.25, "compile": 14.0}


def test_a_duration_of_another_clock_makes_nothing_negative(hand):
    clock = Clock(hand)
    with clock("steps"):
        hand.passes(1.0)
        clock.compiled(1.5)
    assert parts(clock) == {"compile": 1.0} and min(clock.by_part.values()) == 0.0


def test_launches_add_up_and_what_nobody_split_is_other(hand):
    clock = Clock(hand, began=hand.time - 2.5)
    clock.continues({"steps": 10.0, "import": 2.0, "of a later version": 1.0})
    with clock("steps"):
        hand.passes(5.0)
    assert parts(clock) == {"import": 4.5, "steps": 15.0, "other": 1.0}


def test_jax_is_heard_while_it_is_listened_to():
    import jax
    import jax.numpy as jnp

    clock = Clock()
    with clock.listening():
        other = threading.Thread(target=lambda: jax.jit(lambda x: x * 3 - 1)(jnp.ones(7)))
        other.start()
        other.join()
        assert not clock.by_part["trace"] and not clock.by_part["compile"], "of another thread"
        started = time.monotonic()
        jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T)(jnp.ones((5, 5))).block_until_ready()
        took = time.monotonic() - started
    heard = {part: clock.by_part[part] for part in ("trace", "compile")}
    assert min(heard.values()) > 0 and 0.2 * took < sum(heard.values()) <= took
    jax.jit(lambda x: x * 5 - 2)(jnp.ones(9))
    assert {part: clock.by_part[part] for part in heard} == heard


def test_a_process_knows_when_it_began():
    began = process_began()
    assert began is None or 0 < time.monotonic() - began < 1e6
    first = Clock(began=began).by_part["import"]
    assert began is None or first == pytest.approx(time.monotonic() - began, abs=1.0)


def test_the_split_in_one_line():
    seconds = dict.fromkeys(PARTS, 0.0) | {"steps": 14.4, "compile": 3.6, "input_wait": 6.0, "other": 0.04}
    assert split(seconds) == "steps 14.4 s (60%), input wait 6.0 s (25%), compile 3.6 s (15%)"
    assert split(dict.fromkeys(PARTS, 0.0)) == ""
