"""Which runs can be compared, how seeds are joined, and who is on the front: on summaries made by hand."""

import csv
import io
import json
import types

import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.reporting import comparison, comparison_page
from ptft_jax.reporting.summary_tables import measures

PARENT = [{"workdir": "runs/base", "step": 9, "fingerprint": "f", "run_id": "r"}]


def run(folder, name, gain, forgetting, *, lineage=PARENT, fingerprint="f", finished=True, source=True, **changes):
    """The files that a finished run leaves."""
    workdir = folder / name
    workdir.mkdir()
    config = configs.default().to_dict()
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = config
        for key in parents:
            section = section[key]
        section[last] = value
    forgot = {
        "forgetting": forgetting,
        "forgotten_share": forgetting / 3,
        "learned": 3.0,
        "reference": {"of": "chance"},
    }
    missing = {"missing": "why"}
    summary = {
        "transfer": {
            "target": {"gain": gain},
            "target_test": missing,
            "source": forgot if source else missing,
            "source_test": missing,
        },
        "drift": [
            {"part": "embed", "distance": 3.0, "norm": 30.0, "relative": 0.1},
            {"part": "head", "distance": 4.0, "norm": 40.0, "relative": 0.1},
            {"part": "added", "distance": 9.0, "norm": 1.0, "relative": 9.0},
        ],
        "cost": {"flops": 10, "devices": 2, "peak_bytes": 2**20},
        "parameters": {"trainable": 1000, "frozen": 1},
        "trainable_bytes": 4000,
        "optimizer_bytes": 8000,
        "step_seconds": 0.01,
        "parent_fingerprint": fingerprint,
    }
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "lineage.json").write_text(json.dumps(lineage))
    if finished:
        (workdir / "summary.json").write_text(json.dumps(summary))
    return workdir


def test_the_front_is_what_nothing_dominates():
    points = [(0.0, 1.0), (1.0, 2.0), (0.5, 0.9), (1.0, 1.5), (2.0, 2.0), (0.0, 1.0)]
    assert comparison.front(points) == [True, True, False, False, False, True]
    assert comparison.front([]) == []


def test_seeds_are_one_row_with_their_spread(tmp_path):
    dirs = [run(tmp_path, f"lora-seed{s}", 1.0 + s, 0.2, seed=s, tune__method="lora") for s in range(3)]
    dirs += [run(tmp_path, "full", 2.5, 0.9, log__every=3), run(tmp_path, "poor", 0.5, 0.5, tune__train="biases")]
    groups = comparison.compare(dirs)
    assert [(g.name, g.method, len(g.runs), g.best) for g in groups] == [
        ("full", "full", 1, True),
        ("lora", "lora", 3, True),
        ("poor", "full: biases", 1, False),
    ]
    lora = groups[1].figures
    assert lora["gain"] == (2.0, 1.0) and lora["forgetting"] == pytest.approx((0.2, 0.0))
    assert lora["drift"][0] == pytest.approx(0.1), "sqrt(9 + 16) / sqrt(900 + 1600); what was added is not the model's"
    assert lora["flops"][0] == 20, "of both devices"
    rows = comparison.table(groups)
    assert rows[1]["gain"] == "2.000 ± 1.000" and rows[0]["gain"] == "2.500" and rows[2]["front"] == "no"
    out = tmp_path / "page.html"
    comparison_page.write(groups, out)
    html = out.read_text()
    assert html.count("<svg") == 2 and "Pareto front" in html and "2.000 ± 1.000" in html and ">lora<" in html
    figures = json.loads(out.with_suffix(".json").read_text())
    assert figures[1]["seeds"] == [0, 1, 2] and figures[1]["figures"]["gain"] == {"mean": 2.0, "sd": 1.0}


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(fingerprint="g", lineage=[{**PARENT[0], "workdir": "runs/other"}]), "not the same parent.*\n.*runs/base@9\n.*b: runs/other@9"),
        (dict(data__source="text:b"), "b measured something else.*\n.*data.source: .* in .*a, \"text:b\" in .*b"),
        (dict(eval__tokens=64), "eval.tokens: 0 in .*a, 64 in .*b"),
        (dict(lineage=[]), "b has no parent"),
        (dict(finished=False), "b is not finished"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_named(changes, words, tmp_path):
    dirs = [run(tmp_path, "a", 1.0, 0.1), run(tmp_path, "b", 1.0, 0.1, **changes)]
    with pytest.raises(UserError, match=words):
        comparison.compare(dirs)
    with pytest.raises(UserError, match="no run there .*did you mean '.*/a'"):
        comparison.compare([tmp_path / "aa"])


def test_a_run_twice_is_no_second_sample(tmp_path, monkeypatch):
    one = run(tmp_path, "one", 1.0, 0.1)
    monkeypatch.chdir(tmp_path)
    groups = comparison.compare([f"{one}/", "one", "./one", one])
    assert [len(g.runs) for g in groups] == [1]
    run(tmp_path, "again", 1.0, 0.1)
    with pytest.raises(UserError, match="one and again are of one config and one seed"):
        comparison.compare(["one", "again"])


@pytest.mark.parametrize("name", ["biases", "lora-r8-seed", "norms_s", "rank10"])
def test_a_groups_name_is_what_its_runs_share(name, tmp_path):
    dirs = [run(tmp_path, f"{name}{n}", 1.0, 0.1, seed=n) for n in range(2)]
    assert comparison.compare(dirs)[0].name == {"lora-r8-seed": "lora-r8", "norms_s": "norms", "rank10": "rank"}.get(
        name, name
    )


def test_how_runs_were_trained_may_differ(tmp_path):
    same = dict(data__batch_size=4, data__train_tokens=99, eval__every=3, optimizer__learning_rate=0.5)
    assert len(comparison.compare([run(tmp_path, "a", 1.0, 0.1), run(tmp_path, "b", 1.0, 0.1, **same)])) == 2


def test_without_forgetting_there_is_a_table_and_no_front(tmp_path):
    groups = comparison.compare([run(tmp_path, "a", 1.0, 0.0, source=False), run(tmp_path, "b", 2.0, 0.0, seed=1)])
    assert [row["forgetting"] for row in comparison.table(groups)] == ["-"] and not groups[0].best
    comparison_page.write(groups, tmp_path / "p.html")
    assert "No front: forgetting was not measured" in (tmp_path / "p.html").read_text()
    assert "learned before" not in comparison.meanings(groups)


def test_the_command(tmp_path, monkeypatch, capsys):
    from ptft_jax.verbs import compare

    dirs = [run(tmp_path, "a", 1.0, 0.1), run(tmp_path, "b", 2.0, 0.3, tune__method="ia3")]
    args = types.SimpleNamespace(
        run=list(map(str, dirs)), out=str(tmp_path / "c.html"), csv=True, sequence=False, any=False, at_gain=None,
        figures=["png", "svg"],
    )  # fmt: skip
    monkeypatch.setattr(compare.flags, "FLAGS", args)
    compare.main()
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(r["run"], float(r["gain"]), r["on_front"]) for r in rows] == [("b", 2.0, "1"), ("a", 1.0, "1")]
    assert (tmp_path / "c.html").is_file(), "which --out names"
    page = (tmp_path / "c.html").read_text()
    names = ("c-what-was-gained-against-what-was-forgotten", "c-distance-from-the-start")
    assert {path.stem for path in tmp_path.glob("c-*")} == set(names) and page.count("<svg") == 2
    for name in names:
        drawn = (tmp_path / f"{name}.svg").read_text()
        assert drawn.startswith("<?xml") and drawn.partition("\n")[2] in page
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")
    args.figures = ["pgn"]
    with pytest.raises(UserError, match="--figures=pgn: expected some of svg, png .*'png'"):
        compare.main()
    args.out, args.figures = "", ["svg"]
    with pytest.raises(UserError, match="--figures are those of a page"):
        compare.main()
    args.figures = []
    compare.main()
    assert capsys.readouterr().out.startswith("run,") and not list(tmp_path.glob("*/*.html")), (
        "nothing is written unasked"
    )
    args.sequence = True
    with pytest.raises(UserError, match="--csv is for the comparison"):
        compare.main()


def test_settings_that_differ_stand_beside_what_came_of_them(tmp_path, capsys):
    """Those that people ask for first in the table, all in the page and as CSV; what is computed with alone, and no seed."""
    dirs = [
        run(tmp_path, f"r{rank}-seed{seed}", 1.0 + rank, 0.1, seed=seed, tune__method="lora", tune__lora__rank=rank, log__every=rank,
            optimizer__learning_rate=rank / 1000, optimizer__clip_norm=rank / 2)
        for rank in (2, 4) for seed in (0, 1)
    ]  # fmt: skip
    groups = comparison.compare(dirs)
    expected = {"optimizer.learning_rate": "0.004", "tune.lora.rank": "4", "optimizer.clip_norm": "2"}
    assert groups[0].differs == expected and list(expected) == list(groups[0].differs)
    row = comparison.table(groups)[0]
    assert list(row)[:6] == ["run", "front", "method", "optimizer.learning_rate", "tune.lora.rank", "seeds"]
    assert row["tune.lora.rank"] == "4" and comparison.further(groups) == "They also differ in optimizer.clip_norm."
    assert expected.items() <= comparison.plain(groups)[0].items()
    comparison_page.write(groups, tmp_path / "c.html")
    head = (tmp_path / "c.html").read_text().partition("In what they differ")[2].partition("</table>")[0]
    assert all(f">{value}<" in head for value in expected.values())
    assert json.loads((tmp_path / "c.json").read_text())[0]["differs"] == expected
    alike = comparison.compare(dirs[:2])
    assert alike[0].differs == {} and comparison.further(alike) == ""


def several(folder, name, gains, **changes):
    """The files of a run with an adapter for each of `gains`, name -> (gain, forgetting, drift)."""
    mixture = tuple((f"text:{adapter}", 1.0) for adapter in gains)
    workdir = run(
        folder, name, 0, 0, tune__method="lora", tune__adapters=tuple(gains), data__mixture=mixture, **changes
    )
    summary = json.loads((workdir / "summary.json").read_text())
    whole, drift = summary["transfer"], {}
    summary["transfer"] = {"adapters": {}}
    for adapter, (gain, forgetting, distance) in gains.items():
        target = {"before": gain, "after": 0.0, "gain": gain}
        source = {**whole["source"], "before": 0.0, "after": forgetting, "forgetting": forgetting}
        summary["transfer"]["adapters"][adapter] = {**whole, "target": target, "source": source}
        drift[adapter] = [{"part": "embed", "distance": distance, "norm": 10.0, "relative": distance / 10}]
    summary |= {"drift": {"adapters": drift}, "cost": None}
    (workdir / "summary.json").write_text(json.dumps(summary))
    return workdir


def test_one_of_several_adapters_is_a_run_like_others(tmp_path):
    gains = {"a": (1.0, 0.1, 1.0), "b": (9.0, 0.9, 2.0)}
    many = [several(tmp_path, f"many-seed{seed}", gains, seed=seed) for seed in range(2)]
    alone = run(tmp_path, "alone", 0.5, 0.3, data__source="text:a")
    groups = comparison.compare([f"{many[0]}#a", f"{many[1]}#a", alone])
    assert [(g.name, len(g.runs), g.best) for g in groups] == [("many#a", 2, True), ("alone", 1, False)]
    assert groups[0].figures["gain"] == (1.0, 0.0) and groups[0].drift == {"embed": 0.1}
    comparison_page.write(groups, tmp_path / "p.html")
    assert json.loads((tmp_path / "p.json").read_text())[0]["runs"] == [f"{folder}#a" for folder in many]
    with pytest.raises(
        UserError, match='many-seed0#b .*measured something else(.|\n)*data.source: "text:a" .*"text:b"'
    ):
        comparison.compare([alone, f"{many[0]}#b"])
    with pytest.raises(UserError, match="several adapters, .* name one of .*many-seed0#a, .*many-seed0#b"):
        comparison.compare([many[0]])
    with pytest.raises(UserError, match="name one of .*did you mean '.*many-seed0#b'"):
        comparison.compare([f"{many[0]}#bb"])
    with pytest.raises(UserError, match="has not several adapters to choose from; leave out #a"):
        comparison.compare([f"{alone}#a"])
    tables = dict(measures(json.loads((many[0] / "summary.json").read_text())))
    assert [(row["adapter"], row["relative"]) for row in tables["drift"]] == [("a", "10.000%"), ("b", "20.000%")]


def test_the_page_of_a_sequence(tmp_path):
    matrix = [[2.0, 3.0], [1.0, 2.5], [1.5, 1.0]]
    part = {"matrix": matrix, "scores": {"average": 1.25, "backward": -0.5, "forward": None}}
    found = {"stages": ["before", "after a", "after b"], "tasks": ["a", "b"], "accuracy": part, "nll": part}
    comparison_page.write_sequence(found, tmp_path / "s.html")
    html = (tmp_path / "s.html").read_text()
    assert html.count("<svg") == 2 and ">2.500<" in html and "-0.5000" in html and ">after b<" in html
    row = comparison_page.sequence_table(found)[0]
    assert row["forward transfer"] == "-" and row["average"] == "1.2500"


def test_a_run_of_before_a_setting_was_there_has_its_default(tmp_path):
    old = run(tmp_path, "old", 1.0, 0.1)
    config = json.loads((old / "config.json").read_text())
    del config["data"]["untrainable"]
    (old / "config.json").write_text(json.dumps(config))
    assert len(comparison.compare([old, run(tmp_path, "new", 2.0, 0.1, seed=1)])) == 1, (
        "two seeds, as far as settings go"
    )
