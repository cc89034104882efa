"""Which split a record falls to, by hand from what docs/data.md says: nothing here is of the package."""

import hashlib
from fractions import Fraction


def number(*texts):
    """The number of 128 bits that decides: its first half is the place between 0 and 2 ** 64."""
    data = b"".join(len(text.encode()).to_bytes(8, "little") + text.encode() for text in texts)
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little") * 2**64 + int.from_bytes(digest[8:], "little")


def of(share, *texts, missing=("validation", "test")):
    """The split of a record that says these texts, in a source where each split has some."""
    place = Fraction(number(*texts), 2**128)
    if "validation" in missing and place < Fraction(share):
        return "validation"
    if "test" in missing and Fraction(number(*texts) >> 64, 2**64) >= 1 - Fraction(share):
        return "test"
    return "train"


def divided(records, share, missing=("validation", "test")):
    """Split -> indices of `records` (a tuple of texts each), with those that stand in where a split would have none."""
    sides = [of(share, *texts, missing=missing) for texts in records]
    numbers = [number(*texts) for texts in records]
    wanted = {"train", *missing}
    if not wanted <= set(sides):
        order = sorted(set(numbers))
        held = {split: len({n for n, s in zip(numbers, sides) if s == split}) or 1 for split in missing}
        while sum(held.values()) >= len(order):
            held[max(held, key=held.get)] -= 1
        low, high = order[: held.get("validation", 0)], order[len(order) - held.get("test", 0) :]
        sides = ["validation" if n in low else "test" if n in high else "train" for n in numbers]
    return {split: [i for i, s in enumerate(sides) if s == split] for split in ("train", "validation", "test")}


def counts(records, share, missing=("validation", "test")):
    return [len(indices) for indices in divided(records, share, missing).values()]
