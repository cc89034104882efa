"""Each rule at its limit, and every measure against its definition by loops."""

import collections
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data.prepare import quality
from ptft_jax.data.prepare.words import words_of
from ptft_jax.errors import UserError

# Distinct words, so that nothing repeats by chance.
WORDS = [a + b + c for a in ("ba", "co", "di", "fu", "ge") for b in ("lo", "mi", "na", "ri") for c in ("th", "n", "rs")]


def broken(text, **limits):
    """The rules that a text breaks, each looked at alone."""
    found = []
    for name in quality.RULES:
        only = dict.fromkeys(quality.RULES) | {name: limits.get(name, quality.RULES[name].limit)}
        result = quality.rejected([text], words_of([text]), only)[0]
        assert result is None or result[0] == name
        found += [name] if result else []
    return found


def text_of(words, per_line=8):
    return "\n".join(" ".join(words[i : i + per_line]) for i in range(0, len(words), per_line))


GOOD = text_of(WORDS)


def test_plain_text_in_several_languages_passes():
    for text in (
        GOOD,
        "Der Zug nach Basel fährt heute nicht. Bitte benutzen Sie den Bus, er hält vor dem Bahnhof.",
        "Поезд в Базель сегодня не ходит. Пожалуйста, воспользуйтесь автобусом перед вокзалом.",
        "今天前往巴塞尔的列车停运。请乘坐停在车站前面的公共汽车，大约每二十分钟一班。",
        "รถไฟไปบาเซิลไม่วิ่งวันนี้ กรุณาใช้รถบัสหน้าสถานี",
        "القطار إلى بازل لا يعمل اليوم، يرجى استخدام الحافلة أمام المحطة.",
    ):
        assert broken(text) == [], text
    code = "def area(radius):\n    return 3.14159 * radius ** 2\n\nfor size in sizes:\n    print(area(size))"
    assert broken(code) == ["alphabetic_words"]


# A text just within each limit, and one just beyond it.
LIMITS = {
    "word_length_min": ("abc de fghi", "abc de fgh"),
    "word_length_max": ("a" * 9 + " " + "b" * 11, "a" * 9 + " " + "b" * 12),
    "hashes_per_word": ("# " + " ".join(WORDS[:9]), "# " + " ".join(WORDS[:8])),
    "ellipses_per_word": (" ".join(WORDS[:9]) + " … x", " ".join(WORDS[:8]) + " ..."),
    "bullet_lines": (
        "\n".join(f"- {w}" for w in WORDS[:9]) + f"\n{WORDS[9]}",
        "\n".join(f"• {w}" for w in WORDS[:10]) + "\n",
    ),
    "ellipsis_lines": (
        "\n".join([f"{w} {w}..." for w in WORDS[:3]] + WORDS[3:10]),
        "\n".join([f"{w} {w}…" for w in WORDS[:4]] + WORDS[4:10]),
    ),
    "alphabetic_words": ("12 ab cd ef gh", "12 13 ab cd ef gh"),
    "duplicate_lines": ("\n".join([*WORDS[:7], *WORDS[:3]]), "\n".join([*WORDS[:6], *WORDS[:4]])),
    "duplicate_paragraphs": ("\n\n".join([*WORDS[:7], *WORDS[:3]]), "\n \n".join([*WORDS[:6], *WORDS[:4]])),
    "duplicate_line_characters": ("x\n" + "y" * 8 + "\nx", "x\n" + "y" * 7 + "\nx"),
    "duplicate_paragraph_characters": ("xy\n\n" + "z" * 6 + "\n\nxy", "xy\n\n" + "z" * 5 + "\n\nxy"),
    # Words of two letters; the n-gram that comes twice, of so many words.
    "top_2_gram": ("aa bb aa bb " + "cd ef gh ij kl mn op qr st uv wx yz ba dc fe hg", "aa bb aa bb " + "cd ef gh ij kl mn op qr st uv wx yz ba dc fe"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_a_rule_begins_beyond_its_limit(name):
    within, beyond = LIMITS[name]
    assert name not in broken(within)
    assert name in broken(beyond)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9, 10])
def test_repeated_ngrams_at_their_limit(n):
    name = f"top_{n}_gram" if n < 5 else f"duplicate_{n}_grams"
    limit = quality.RULES[name].limit
    words = [f"{a}{b}" for a in "abcdefghijklmnop" for b in "qrstuvwxyz"]
    counted = 2 * n if n < 5 else n  # words in the top n-gram twice; or in its second occurrence
    total = next(t for t in range(2 * n, 200) if counted / t <= limit)
    for size, expected in ((total, False), (total - 1, True)):
        text = " ".join([*words[:n], *words[n : n + size - 2 * n], *words[:n]])
        assert (name in broken(text)) == expected, size


def by_loops(text, words):
    """The measures of one text; `words` are those of the n-grams."""
    pieces = text.split()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]
    many = len(pieces) or 1
    out = {
        "word_length_min": sum(map(len, pieces)) / len(pieces) if pieces else np.nan,
        "hashes_per_word": text.count("#") / many,
        "ellipses_per_word": (text.count("...") + text.count("…")) / many,
        "alphabetic_words": sum(any(c.isalpha() for c in w) for w in pieces) / many if pieces else np.nan,
        "bullet_lines": sum(line[0] in "-*•–" for line in lines) / (len(lines) or 1),
        "ellipsis_lines": sum(line.endswith("...") or line.endswith("…") for line in lines) / (len(lines) or 1),
    }
    for parts, name in ((lines, "line"), (paragraphs, "paragraph")):
        again = [p for n, p in enumerate(parts) if p in parts[:n]]
        out[f"duplicate_{name}s"] = len(again) / (len(parts) or 1)
        out[f"duplicate_{name}_characters"] = sum(map(len, again)) / (sum(map(len, parts)) or 1)
    characters = sum(map(len, words)) or 1
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if n < 5:
            counts = collections.Counter(grams)
            most = max(counts.values(), default=0)
            top = max((sum(map(len, g)) * most for g, c in counts.items() if c == most), default=0) if most > 1 else 0
            out[f"top_{n}_gram"] = min(top, characters) / characters
        else:
            inside = {k for i, g in enumerate(grams) if g in grams[:i] for k in range(i, i + n)}
            out[f"duplicate_{n}_grams"] = sum(len(words[k]) for k in inside) / characters
    return out


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(["a", "bb", "ccc", "1", " ", " ", "\n", "\n\n", "- ", "#", "...", "…"]), max_size=40),
        max_size=4,
    )
)
def test_measures_are_their_definitions(texts):
    texts = ["".join(parts) for parts in texts]
    words = words_of(texts)
    measured = quality.measures(texts, words)
    for i, text in enumerate(texts):
        for name, value in by_loops(text, re.findall(r"[^\W_]+", text)).items():
            np.testing.assert_allclose(measured[name][i], value, rtol=1e-12, err_msg=f"{name} of {text!r}")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "\n"]), max_size=30), min_size=1, max_size=4))
def test_measures_do_not_depend_on_the_company(texts):
    texts = [" ".join(parts) for parts in texts]
    together = quality.measures(texts, words_of(texts))
    for i, text in enumerate(texts):
        for name, values in quality.measures([text], words_of([text])).items():
            np.testing.assert_array_equal(values[0], together[name][i], err_msg=name)


def test_rules_of_words_do_not_hold_where_words_are_not_separated():
    text = "今天前往巴塞尔的列车停运请乘坐停在车站前面的公共汽车"
    assert np.isnan(quality.measures([text], words_of([text]))["word_length_max"][0])
    assert "duplicate_5_grams" in broken(text * 2), "repetition is still seen"


def test_the_first_broken_rule_and_its_value_are_told():
    text = "# a\n# a"
    assert quality.rejected([text, GOOD], words_of([text, GOOD]), quality.limits("")) == [
        ("word_length_min", 1.0),
        None,
    ]


def test_limits():
    changed = quality.limits("hashes_per_word=0.5, bullet_lines=off")
    assert changed["hashes_per_word"] == 0.5 and changed["bullet_lines"] is None
    assert changed["top_2_gram"] == quality.RULES["top_2_gram"].limit
    assert "hashes_per_word" in broken("# ab cd ef") and "hashes_per_word" not in broken(
        "# ab cd ef", hashes_per_word=0.5
    )
    for text, message in (
        ("bullets_lines=1", "did you mean 'bullet_lines'"),
        ("bullet_lines", "expected bullet_lines=NUMBER"),
        ("bullet_lines=nan", "finite"),
    ):
        with pytest.raises(UserError, match=message):
            quality.limits(text)
