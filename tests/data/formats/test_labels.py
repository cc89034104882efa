"""Labels: one type a source, the same classes in every format, and what is refused, with its place."""

import json

import pytest

from ptft_jax.data import formats, tokenize
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from tests.data.formats.helpers import encode, where
from tests.data.records import writing


def labelled(*labels):
    return [{"text": f"t{n}", "label": label} for n, label in enumerate(labels)]


def chosen(*labels, **options):
    return formats.choose(labelled(*labels), options, where)


def numbers(*labels, **options):
    return [row.label for row in encode(labelled(*labels), options)]


def of_source(reference, split="train"):
    """The classes of a source, and text -> label of a split's examples."""
    opened = tokenize.Opened.of(reference, split, held_out=0.1)
    store = tokenize.tokenized(opened, tok.ByteTokenizer(), template="", train_on="assistant")
    return opened.format.classes, {
        opened.records[int(i)]["text"]: n for i, n in zip(store.origins, store.labels.tolist())
    }


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


# One type a source

MIXED = {
    "a number among texts": (["1", "0", 0], "line 3: column 'label' is the number 0; the first records have texts"),
    "a text among numbers": ([0, 1, "1"], "line 3: column 'label' is the text '1'; the first records have numbers"),
    "true among numbers": ([0, 1, True], "line 3: column 'label' is true; the first records have numbers"),
    "a number among truths": ([True, False, 0], "line 3: column 'label' is the number 0; the first .* true and false"),
    "true among texts": (["a", "b", False], "line 3: column 'label' is false; the first records have texts"),
    "a text among truths": ([True, "true"], "line 2: column 'label' is the text 'true'; the first .* true and false"),
    "a whole float": ([1, 0, 1.0], "line 3: column 'label' is not a class: a whole number or a name, while .*line 1 has"),
    "a float first": ([1.0, 1, 0], "line 2: has the format classification, while x.jsonl, line 1 has the format text"),
    "null": (["a", None], "line 2: column 'label' is null, while x.jsonl, line 1 has the format classification"),
    "empty": (["a", ""], "line 2: column 'label' is empty: expected a class"),
    "white space": (["a", "b", " \n"], "line 3: column 'label' is empty: expected a class"),
    "too large": ([0, 2**31], "line 2: column 'label' is 2147483648: expected a class, a number from 0 below 2147483648"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("late", [False, True])
def test_the_labels_of_a_source_are_of_one_type(name, late):
    labels, expected = MIXED[name]
    if late:  # behind the records whose layout is looked at
        labels = [*labels[:1] * 120, *labels]
        line = int(expected[5 : expected.index(":")]) + 120
        expected = {
            "a whole float": f"line {line}: column 'label' is 1.0: expected a class, a whole number from 0 or a name",
            "a float first": "no use: these are texts beside numbers",
            "null": f"line {line}: column 'label' is null; there are",
        }.get(name, f"line {line}{expected[expected.index(':') :]}")
    if expected.startswith("no use"):
        assert chosen(*labels[:50]).name == "text"
        return
    with pytest.raises(UserError, match=f"(?s)^x.jsonl, {expected}"):
        encode(labelled(*labels))


def test_labels_of_one_type_are_as_they_were():
    assert numbers(2, 0, 7) == [2, 0, 7]
    assert chosen(2, 0, 7).classes == () and chosen("7", "0", "2").classes == ("0", "2", "7")
    assert numbers("7", "0", "2") == [2, 0, 1]  # names, as they are texts
    assert numbers(True, False) == [1, 0] and chosen(True, True).classes == ("false", "true")
    assert numbers(True, False, classes="no,yes") == [1, 0]
    with pytest.raises(UserError, match="line 1: column 'label' is true: expected two classes"):
        encode(labelled(True), {"classes": "yes"})
    with pytest.raises(UserError, match="line 2: column 'label' is the number 1; the first records have texts"):
        encode(labelled("a", 1), {"classes": "a,b"})


def test_numbers_go_by_names_that_are_numbers():
    """Whatever the type of the labels; and such names are how numbers that are no classes get to be some."""
    for labels in ((7, 0, 2, 2), ("7", "0", "2", "2")):
        assert numbers(*labels, classes="0,2,7") == [2, 0, 1, 1]
    assert numbers(-1, 1, 0, classes="-1,0,1") == [0, 2, 1]
    assert numbers(1, 0, classes="neg,pos") == [1, 0]
    with pytest.raises(UserError, match="line 2: column 'label' is 1: expected one of 0, 2, 7"):
        numbers(0, 1, classes="0,2,7")
    with pytest.raises(
        UserError, match="line 1: column 'label' is -1: expected a class, a number from 0 .*no label.*classes=A,B"
    ):
        numbers(-1, 1, 0)


UNLIKE = {
    "case": ("pos", "Pos"),
    "space": ("pos", "pos "),
    "form": ("caf\u00e9", "cafe\u0301"),
    "width": ("A", "\uff21"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_a_class_is_spelled_in_one_way(name):
    first, second = UNLIKE[name]
    with pytest.raises(UserError) as raised:
        chosen(first, "x", second)
    assert str(raised.value).startswith(
        f"x.jsonl, line 3: column 'label' is {second!a}, and at x.jsonl, line 1 {first!a}: "
    )
    assert "white space around them, case or Unicode form alone" in str(raised.value)
    if name != "space":  # said to be two
        assert chosen(first, "x", second, classes=f"{first},{second},x").classes == (first, second, "x")
    assert chosen(first, "x").classes == tuple(sorted((first, "x")))  # one alone is taken as it is


def test_messages_are_short():
    many = [f"class {n:04d}" for n in range(1000)]
    records = labelled(*many)
    found = formats.choose(records, {}, where)
    assert len(found.describe()) < 400 and "9 = class 0009, ... and 990 more; " in found.describe()
    with pytest.raises(UserError) as raised:
        formats.encoder(found, tok.ByteTokenizer()).encode(labelled("clas 0500"), ["y.jsonl, line 1"])
    message = str(raised.value)
    assert len(message) < 500 and "did you mean 'class 0500'" in message and "classes=A,B" in message


# The same in every format

TYPED = ("jsonl", "list", "parquet", "arrayrecord", "hf", "tfds")
CASES = {
    "numbers with gaps": ([0, 2, 7], (), {0: 0, 2: 2, 7: 7}),
    "names": (["b", "a", "é c"], ("a", "b", "é c"), {"a": 0, "b": 1, "é c": 2}),
    "names and numbers": (["x", "10", "9"], ("9", "10", "x"), {"9": 0, "10": 1, "x": 2}),
    "truths": ([True, False], ("false", "true"), {False: 0, True: 1}),
}


@pytest.mark.parametrize("format", [*TYPED, "csv"])
def test_the_same_labels_are_the_same_classes_in_every_format(format, cache, tmp_path):
    for number, (name, (labels, classes, expected)) in enumerate(CASES.items()):
        rows = [{"text": f"{name} {i}", "label": labels[i % len(labels)]} for i in range(30)]
        if format == "csv":  # as such are written: True would be one, too, by another name
            rows = [row | {"label": json.dumps(row["label"]).strip('"')} for row in rows] if name == "truths" else rows
        (folder := tmp_path / str(number)).mkdir()
        reference = writing.write(format, folder, train=rows)
        given = {row["text"]: labels[i % len(labels)] for i, row in enumerate(rows)}
        for split in ("train", "validation", "test"):
            found, numbered = of_source(reference, split)
            assert found == classes, (name, split)
            assert numbered and numbered == {text: expected[given[text]] for text in numbered}, (name, split)


def test_cells_of_csv_are_numbers_only_where_all_are_spelled_so(cache, tmp_path):
    spelled = [
        (["0", "2", "7"], ()),
        (["0", "01"], ("0", "01")),
        (["0", "1.0"], ("0", "1.0")),
        (["0", " 1"], ("0", " 1")),
    ]
    spelled += [(["0", "+1"], ("0", "+1")), (["0", "١"], ("0", "١"))]
    for n, (labels, classes) in enumerate(spelled):
        for suffix, joint in ((".csv", ","), (".tsv", "\t")):
            path = tmp_path / f"{n}{suffix}"
            path.write_text(
                f"text{joint}label\n" + "".join(f"t{i}{joint}{labels[i % len(labels)]}\n" for i in range(30))
            )
            found, numbered = of_source(f"csv:{path}")
            assert found == classes
            assert set(numbered.values()) == ({0, 2, 7} if not classes else {0, 1})
    path = tmp_path / "empty.csv"
    path.write_text("text,label\n" + "".join(f"t{i},{i % 2}\n" for i in range(30)) + "late,\n")
    with pytest.raises(UserError, match="empty.csv, line 32: column 'label' is empty"):
        of_source(f"csv:{path}")
    path.write_text("text,label\n" + "".join(f"t{i},{i % 2 - 1}\n" for i in range(30)))
    with pytest.raises(UserError, match="column 'label' is -1: expected a class, a number from 0"):
        of_source(f"csv:{path}")
    assert set(of_source(f"csv:{path}?classes=-1,0")[1].values()) == {0, 1}
    with pytest.raises(UserError, match="column 'label' is the text 'x'; the first records have numbers"):
        (tmp_path / "own").mkdir()
        (tmp_path / "own/train.csv").write_text("text,label\na,0\nb,1\n")
        (tmp_path / "own/validation.csv").write_text("text,label\na,0\nb,x\n")
        (tmp_path / "own/test.csv").write_text("text,label\na,0\n")
        of_source(f"csv:{tmp_path}/own", "validation")


def test_classes_of_a_source_that_is_divided_are_those_of_all_of_it(cache, tmp_path):
    """A thousand classes of four records each: some are in no record that is trained on."""
    rows = [{"text": f"text {i}", "label": f"class {i % 1000:04d}"} for i in range(4000)]
    reference = write_lines(tmp_path / "many.jsonl", rows)
    given = {row["text"]: int(row["label"][6:]) for row in rows}
    seen = {}
    for split in ("train", "validation", "test"):
        classes, numbered = of_source(reference, split)
        assert classes == tuple(f"class {n:04d}" for n in range(1000))
        assert numbered == {text: given[text] for text in numbered}
        seen[split] = set(numbered.values())
    rare = [{"text": f"once {i}", "label": f"rare {i:02d}"} for i in range(40)]
    reference = write_lines(tmp_path / "rare.jsonl", rare)
    found = {split: of_source(reference, split) for split in ("train", "validation", "test")}
    assert {classes for classes, _ in found.values()} == {tuple(f"rare {n:02d}" for n in range(40))}
    everywhere = [number for _, numbered in found.values() for number in numbered.values()]
    assert sorted(everywhere) == list(range(40)) and all(numbered for _, numbered in found.values())


def test_files_of_another_split_bring_no_classes(cache, tmp_path):
    """What is tested for must have been there to be learned; without files of its own, validation is of train."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name, labels in {"train": "abc", "test": "abd"}.items():
        write_lines(folder / f"{name}.jsonl", [{"text": f"{name} {i}", "label": labels[i % 3]} for i in range(30)])
    assert of_source(f"jsonl:{folder}", "validation")[0] == ("a", "b", "c")
    with pytest.raises(
        UserError, match="test.jsonl, line 3: column 'label' is 'd': expected one of a, b, c.*classes=A,B"
    ):
        of_source(f"jsonl:{folder}", "test")


# Names that a source declares


@pytest.mark.parametrize("format", ["hf", "parquet", "tfds"])
def test_names_that_a_source_declares_have_its_order(format, cache, tmp_path):
    import datasets

    datasets.disable_progress_bars()
    names = ["world", "sports", "business"]
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=names))
    data = datasets.Dataset.from_list(labelled(*[i % 3 for i in range(30)]), features=features)
    reference = f"parquet:{tmp_path}/x.parquet"
    if format == "parquet":
        data.to_parquet(tmp_path / "x.parquet")
    else:
        data.save_to_disk(str(tmp_path / "saved"))
        reference = f"hf:{tmp_path}/saved"
    if format == "tfds":
        from ptft_jax.data.records import open_records
        from ptft_jax.data.records.tfds_builder import write_tfds

        write_tfds({"train": open_records(reference, "train", held_out=0.1)}, "news", "1.0.0", tmp_path)
        reference = f"tfds:news?dir={tmp_path}"
    opened = tokenize.Opened.of(reference, "train", held_out=0.1)
    assert opened.format.classes == tuple(names) and opened.format.declared
    numbered = of_source(reference)[1]
    assert numbered == {text: int(text[1:]) % 3 for text in numbered}
    joint = "&" if "?" in reference else "?"
    assert of_source(f"{reference}{joint}classes=a,b,c")[0] == ("a", "b", "c")


def test_names_that_are_but_numbers_are_none(cache, tmp_path):
    import datasets

    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(num_classes=3))
    data = datasets.Dataset.from_list(labelled(*[i % 3 for i in range(30)]), features=features)
    data.save_to_disk(str(tmp_path / "saved"))
    assert of_source(f"hf:{tmp_path}/saved")[0] == ()


def test_shards_that_declare_other_names_are_refused(cache, tmp_path):
    import datasets

    for n, names in enumerate((["a", "b"], ["b", "a"])):
        features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=names))
        datasets.Dataset.from_list(labelled(*[0, 1] * 10), features=features).to_parquet(tmp_path / f"{n}.parquet")
    with pytest.raises(UserError, match="1.parquet has the classes b, a in column 'label', and .*0.parquet a, b"):
        of_source(f"parquet:{tmp_path}")
