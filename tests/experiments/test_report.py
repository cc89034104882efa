"""What reports say, beside figures worked out by hand, and what they leave out, which they have to say."""

import json
import re
import sys
import types

import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.experiments import findings, launch, ranking, record, report, report_page
from ptft_jax.experiments.nodes import Graph
from ptft_jax.reporting import graph_drawing, plots
from ptft_jax.reporting.page import Page
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.workdir import Workdir
from ptft_jax.verbs import carrying

F = "tests.experiments.functions:"
# b - a is 0.5, 0.4 and 0.8: a mean of 0.5667, t = 0.5667 / (0.2082 / sqrt(3)) = 4.715, and p = 0.0422 with two degrees of freedom; no resample
# of three has a mean outside of [0.4, 0.8], and each end has more than 2.5 % of them. c - a is 0, 0.1 and -0.2: t = -0.378, p = 0.742.
TABLE = {"a": (1.0, 1.2, 1.1), "b": (1.5, 1.6, 1.9), "c": (1.0, 1.3, 0.9)}


def row(name, value, *, status="finished", seed=None, point=None, group="", kind="evaluation", parents=()):
    result = {"result": value if isinstance(value, dict) else {"nll": value}} if status == "finished" else {}
    return {
        "name": name, "kind": kind, "status": status, "parents": list(parents), "group": group or name,
        "point": point or {}, "seed": seed, "settings": {}, **result,
    }  # fmt: skip


def rows(table, **more):
    return [
        row(f"{way}-seed{seed}", value, status="finished" if value is not None else "diverged", **more)
        for way, values in table.items()
        for seed, value in enumerate(values)
    ]


def said(table, **asked):
    [found] = ranking.compare(rows(table), **asked)
    return findings.answer(found), findings.table(found), " ".join(findings.cautions(found))


def test_the_best_is_better_than_the_next():
    answer, table, cautions = said({"a": TABLE["a"], "b": TABLE["b"]})
    assert answer == (
        "Best: a (nll 1.1 ± 0.1 over 3 seeds), better than the next, b, by 0.567 [0.4, 0.8] paired over 3 seeds (p = 0.042)."
    )
    assert [line["behind the best"] for line in table] == ["best", "+0.567 [0.4, 0.8]"]
    assert cautions.startswith("1 comparison with the best") and "too narrow" in cautions and "Holm" not in cautions


def test_several_comparisons_are_corrected():
    """Of 0.042 and 0.74 the first is doubled by Holm's correction, and no longer below 0.05."""
    answer, table, cautions = said(TABLE)
    assert answer == (
        "No difference larger than the seeds' spread: c (nll 1.067 ± 0.21 over 3 seeds) is ahead of the next, a, by "
        "0.0333 [-0.1, 0.2] paired over 3 seeds (p = 0.74, corrected for 2 comparisons)."
    )
    answer, table, cautions = said(TABLE, baseline="a")
    assert answer.startswith("No way is shown to be better than the baseline: the best is c (") and (
        "against the baseline, a (nll 1.1 ± 0.1 over 3 seeds): 0.0333 [-0.1, 0.2] paired over 3 seeds (p = 0.74, corrected for 2"
        in answer
    )
    assert answer.endswith("Of 2 ways, 0 are shown to be better than the baseline, 0 worse.")
    assert {line["way"]: line["p, corrected"] for line in table} == {"a": "-", "b": "0.084", "c": "0.74"}
    assert "corrected by Holm for all of them" in cautions


def test_more_is_better_of_some_figures():
    table = {"a": [{"accuracy": v} for v in (0.1, 0.2)], "b": [{"accuracy": v} for v in (0.8, 0.9)]}
    assert said(table)[0].startswith("Best: b (accuracy 0.85 ± 0.071 over 2 seeds), better than the next, a, by 0.7 [")
    unknown = {"a": [{"length": 1.0}], "b": [{"length": 2.0}]}
    assert said(unknown)[0].startswith("No answer: whether more or less length is better is not known")
    recalled = {
        way: [{"behavior/recall/accuracy": share, "behavior/recall/log_prob": -9 * share}]
        for way, share in (("a", 0.25), ("b", 0.75))
    }
    assert said(recalled)[0].startswith("Best of one seed: b (behavior/recall/accuracy 0.75, one seed)")
    assert said(unknown, figure="length", better="max")[0].startswith("Best of one seed: b (length 2, one seed)")


@pytest.mark.parametrize(
    ("table", "answer", "caution"),
    [
        ({"a": (1.0,), "b": (2.0,)}, "Best of one seed: a .* One seed has no spread", "One seed each"),
        (
            {"a": (1.0, None), "b": (2.0, 2.5)},
            r"^b: nll 2.25 .*no other way came to a figure with every seed",
            r"a \(1/2, 1 diverged\)",
        ),
        ({"a": (1.0, 1.1), "b": (2.0, 2.2, 2.1)}, "paired over 2 seeds", r"not equally many \(2, 3\)"),
        ({"a": (1.0, None), "b": (2.0, None)}, "Best of one seed: a", "Every way lacks the figure of some"),
        ({"a": (None,), "b": (None,)}, "No answer: no node came to a figure", ""),
        ({"a": (float("nan"), 1.0), "b": (2.0, 3.0)}, "^b: ", r"a \(1/2, 1 no figure\)"),
    ],
)
def test_what_is_missing_is_said(table, answer, caution):
    found = said(table)
    assert re.search(answer, found[0]) and re.search(caution, found[2]), found


def test_groups_that_are_seeds_of_a_way_are_compared():
    """Where they were measured on the same; a sweep's group has points, and is compared in itself."""
    ways = [
        {**one, "group": one["name"][:-6], "settings": {"data.source": one["name"][:4]}}
        for one in rows({"near-a": TABLE["a"], "near-b": TABLE["b"], "far-a": TABLE["c"]}, kind="run")
    ]
    for one in ways:
        one["result"] = {**one.pop("result"), "selected": {"metric": "nll", "value": 0.0}}
    found = ranking.compare(ways, figure="nll", better="min")
    assert [(one.name, [point.name for point in one.points]) for one in found] == [
        ("near", ["near-a", "near-b"]),
        ("far-", ["far-a"]),
    ]


def test_merges_have_nothing_that_is_compared():
    assert ranking.compare([row(f"soup-{way}", {}, kind="merge") for way in "ab"]) == []


def test_a_baseline_that_there_is_not():
    with pytest.raises(UserError, match="baseline = 'lora': no point or node .*did you mean 'lora2'"):
        ranking.compare(rows({"lora2": (1.0,), "full": (2.0,)}), baseline="lora")


def test_ends_of_fields_name_points():
    points = [{"optimizer.learning_rate": rate, "data.rate": 1} for rate in (1e-3, 0.1)]
    [found] = ranking.compare([row(f"s-{n}", float(n), group="s", point=point) for n, point in enumerate(points)])
    assert [point.name for point in found.points] == ["learning_rate=0.001, rate=1", "learning_rate=0.1, rate=1"]


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """An experiment of calls, in which one fails, carried out in two folders."""
    graph = Graph("Which is it?", figure="loss", better="min")
    for way, values in (TABLE | {"d": (0.5, None, 0.5)}).items():
        for seed, value in enumerate(values):
            graph.call(f"{way}-seed{seed}", F + "measure", loss=value)
    graph.call("after", F + "add", of=["node:d-seed1"])
    folders = [tmp_path_factory.mktemp("report") / name for name in ("one", "two")]
    for folder in folders:
        command = ["ptft", "experiment", "--file=x.py", f"--out={folder}"]
        by = launch.executor("inline", 1)
        launch.launch(graph, folder, by=by, reporter=Reporter(quiet=True), command=command)
    return folders


def test_an_experiment_ends_in_a_report(carried):
    texts = [(folder / "experiment.md").read_text() for folder in carried]
    assert texts[0] == texts[1], "the same results, the same bytes"
    assert texts[0].startswith(
        "# Which is it?\n\n13 nodes: 11 finished, 1 failed, 1 skipped.\n\nNo difference larger than"
    )
    assert "d (2/3, 1 failed)" in texts[0] and "Failed: d-seed1. Skipped: after." in texts[0]
    html = (carried[0] / "experiment.html").read_text()
    assert "Which is it?" in html and "no figure" in html and "ptft experiment --file=x.py" in html
    assert html.count("<svg") == 1 and "http" not in html.replace("http://www.w3.org/", ""), "nothing is fetched"
    asked = json.loads((carried[0] / "experiment.json").read_text())
    assert asked["question"] == "Which is it?" and len(asked["nodes"]) == 13
    assert asked["nodes"][-1]["parents"] == ["d-seed1"] and asked["nodes"][-1]["folder"] == "runs/after"


def test_the_command_is_the_question_where_there_is_none():
    words = [
        "ptft",
        "sweep",
        "--config=a b.py",
        "--out",
        "runs/x",
        "--axis",
        "seed=1,2",
        "--executor=local",
        "--nodry_run",
        "--seeds=3",
    ]
    assert record.asked("", words) == "ptft sweep '--config=a b.py' --axis seed=1,2 --seeds=3"
    assert record.asked("Why?", words) == "Why?"


@pytest.mark.parametrize(
    ("program", "module", "typed"),
    [
        ("ptft sweep", "", "ptft sweep --config.init.from=a"),
        ("/x/ptft_jax/verbs/sweep.py", "ptft_jax.verbs.sweep", "ptft sweep --config.init.from=a"),
        ("ptft experiment", "ptft_jax.cli", "ptft experiment --config.init.from=a"),
        ("/x/experiments/stages.py", "experiments.stages", "python -m experiments.stages --config.init.from=a"),
        (
            "/x/stages.py",
            "ptft_jax.shipped.experiments.stages",
            "python -m ptft_jax.shipped.experiments.stages --config.init.from=a",
        ),
        ("mine/own.py", "", "python mine/own.py --config.init.from=a"),
    ],
)
def test_the_command_is_the_one_that_was_typed(program, module, typed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "--config.init.from_=a"])
    main = types.SimpleNamespace(__spec__=types.SimpleNamespace(name=module) if module else None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert " ".join(carrying._command()) == typed


def test_a_baseline_that_only_grows(tmp_path):
    """Is looked for when all is there; of a graph that does not grow a look says that there is none."""

    def declared(baseline):
        g = Graph("?", figure="loss", better="min", baseline=baseline)
        g.call("one", F + "measure", loss=1.0)
        g.then(lambda graph, rows: len(rows) == 1 and graph.call("two", F + "measure", loss=2.0))
        return g

    by, quiet = launch.executor("inline", 1), Reporter(quiet=True)
    launch.launch(declared("two"), tmp_path / "a", by=by, reporter=quiet)
    assert "against the baseline, two (loss 2" in (tmp_path / "a/experiment.md").read_text()
    assert [node["name"] for node in record.read(tmp_path / "a")["nodes"]] == ["one", "two"]
    launch.launch(declared("tow"), tmp_path / "b", by=by, reporter=quiet)
    text = (tmp_path / "b/experiment.md").read_text()
    assert "Compared with the best, as baseline = 'tow': no point or node" in text and "Best of one seed: one" in text
    g = Graph(baseline="tow")
    g.call("two", F + "measure", loss=2.0)
    with pytest.raises(UserError, match="baseline = 'tow': .*did you mean 'two'"):
        launch.look(g, tmp_path / "c")


def test_an_axis_without_values_is_not_drawn(tmp_path):
    given = [
        row(f"s-{n}", float(n), group="s", point={"optimizer.clip": None, "data.length": n, "seed": n})
        for n in range(3)
    ]
    outcomes = {one["name"]: {"message": "", "seconds": 0.0} for one in given}
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"kind": "eval", "step": {n}, "nll": {n}}}\n' for n in (1, 2)))
    folders = {"s-0": tmp_path}
    report_page.write(tmp_path / "x.html", "?", (), given, ranking.compare(given), folders, outcomes, ["12 trials."])
    html = (tmp_path / "x.html").read_text()
    assert html.count("<svg") == 4 and "<p>12 trials.</p>" in html
    assert "Means over seeds" not in html, "one seed has no band"


def test_many_nodes_are_few_in_a_page(tmp_path):
    points = [{"optimizer.learning_rate": 1e-4 * (1 + n), "tune.lora.rank": n % 7} for n in range(310)]
    given = [
        row(f"s-{n}-seed{seed}", (n - 99) ** 2 + seed / 7, group="s", point=point, seed=seed, kind="evaluation")
        for n, point in enumerate(points)
        for seed in (0, 1)
    ]
    found = ranking.compare(given)
    outcomes = {one["name"]: {"message": "", "seconds": 0.0} for one in given}
    report_page.write(tmp_path / "x.html", "?", (), given, found, {}, outcomes)
    html = (tmp_path / "x.html").read_text()
    assert len(html) < 1_500_000 and "The first 100 of 310 rows" in html and "The best 300 of 310 are drawn" in html
    assert "learning_rate=0.01, rank=1" in findings.answer(found[0])
    assert report.markdown("?", given, found).count("| learning_rate=") == 310


def test_a_graph_is_drawn_by_layers():
    nodes = [row("a", 1.0), *(row(f"b{n}", 1.0, parents=["a"]) for n in range(3)), row("c<", 1.0, parents=["b0", "b2"])]
    svg = graph_drawing.svg(nodes)
    names = dict(re.findall(r'<text x="([\d.]+)" y="[\d.]+" font-weight="600" fill="#222">(.*?)</text>', svg)[::-1])
    assert (
        len(names) == 3 and list(names.values()) == ["c&lt;", "b0", "a"] and sorted(map(float, names)) == [16, 266, 516]
    )
    assert svg.count("<path") == 5 and svg.count("<rect") == 5
    many = [row(f"n{n}", 1.0, group="few" if n % 2 else "", parents=[f"n{n - 1}"] if n else []) for n in range(1000)]
    assert len(graph_drawing.boxes(many)) <= 60 and sum(box.count for box in graph_drawing.boxes(many)) == 1000
    assert len(graph_drawing.svg(many)) < 100_000


def test_heads_of_columns_break_between_words(tmp_path):
    page = Page("t", "l")
    page.table([{"optimizer.learning_rate <x>": 1.0}])
    page.write(tmp_path / "x.html", "")
    assert "<th>optimizer.<wbr>learning_<wbr>rate &lt;x&gt;</th>" in (tmp_path / "x.html").read_text()


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """Two points of a sweep with two seeds each, as runs by hand left them: the page, and the figures that were drawn."""
    folder, drawn, made = tmp_path_factory.mktemp("hand"), [], {}
    table = {0.1: ((1.0, 0.3), (1.2, 0.5)), 0.2: ((2.0, 0.9), (2.4, 1.1))}  # rate -> (gain, forgetting) of each seed
    nodes = []
    for rate, seeds in table.items():
        for seed, (gain, forgetting) in enumerate(seeds):
            name = f"rate-{rate:g}-seed{seed}"
            made[name] = here = Workdir(folder / name)
            here.path.mkdir()
            evals = [{"kind": "eval", "step": step, "validation/nll": 4 - gain * step / 10} for step in (0, 5, 10)]
            here.metrics.write_text("".join(json.dumps(one) + "\n" for one in evals))
            here.samples.write_text(
                json.dumps({"step": 10, "prompt": "To be", "text": f"or {rate:g}", "kind": "sample"}) + "\n"
            )
            here.summary.write_text(
                json.dumps({"seconds": 10 * rate + seed, "step": 10, "tokens_seen": 100, "model_flops": rate * 1e9})
            )
            version = "0.9.1" if (rate, seed) == (0.2, 1) else "0.9.0"
            here.environment.write_text(
                json.dumps({"ptft_jax": "1", "python": "3.11", "packages": {"jax": version}, "devices": ["cpu"]})
            )
            one = row(name, {}, seed=seed, point={"optimizer.learning_rate": rate}, group="rate", kind="run")
            transfer = {"target": {"gain": gain}, "source": {"forgetting": forgetting}}
            one["result"] = {
                "step": 10,
                "after": {"validation/nll": 4 - gain},
                "transfer": transfer,
                "selected": {"metric": "validation/nll", "mode": "min"},
            }
            nodes.append(one)
    found = ranking.compare(nodes)
    outcomes = {one["name"]: {"status": "finished", "message": "", "seconds": 1.0} for one in nodes}
    with pytest.MonkeyPatch.context() as patch:
        svg = plots.svg
        patch.setattr(plots, "svg", lambda figure: (drawn.append(figure.axes[0]), svg(figure))[1])
        folders = {name: here.path for name, here in made.items()}
        report_page.write(folder / "experiment.html", "Which?", ["ptft"], nodes, found, folders, outcomes)
    return (folder / "experiment.html").read_text(), {axes.get_title(loc="left"): axes for axes in drawn}


def test_bands_over_seeds(by_hand):
    """At the last step 2.9 ± 0.1414 (3.0 and 2.8), and 1.8 ± 0.2828."""
    axes = by_hand[1]["validation/nll"]
    ends = {float(line.get_ydata()[-1]) for line in axes.lines}
    assert sorted(ends) == pytest.approx([1.8, 2.9]) and len(axes.collections) == 2
    heights = []
    for band in axes.collections:
        edges = band.get_paths()[0].vertices
        heights.append(float(np.ptp(edges[edges[:, 0] == 10, 1])))
    assert sorted(heights) == pytest.approx([2 * 0.2 / 2**0.5, 2 * 0.4 / 2**0.5])
    assert "bands of one standard deviation" in by_hand[0]


def test_what_was_traded_and_what_was_paid(by_hand):
    """Means over seeds: forgotten 0.4 for a gain of 1.1, 1 for 2.2; 0.1 and 0.2 GFLOP for a loss of 2.9 and 1.8."""
    _, drawn = by_hand
    for title, expected in (
        ("What was gained against what was forgotten", [(0.4, 1.1), (1.0, 2.2)]),
        ("validation/nll against cost", [(1e8, 2.9), (2e8, 1.8)]),
    ):
        points = [line.get_xydata()[0] for line in drawn[title].lines if line.get_marker() == "o"]
        np.testing.assert_allclose(sorted(map(tuple, points)), expected, rtol=1e-6)


def test_samples_costs_and_what_runs_were_made_with(by_hand):
    page, _ = by_hand
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.replace("<wbr>", "")))
    assert "To be or 0.2 or 0.1" in text, "the best first"
    assert "4 runs took 8 s, 40 steps and 400 tokens. The last launch spent 4 s on nodes" in text
    assert re.search(r"learning_rate=0.1 2 1.500 10 100\b", text) and re.search(
        r"learning_rate=0.2 2 2.500 10 100\b", text
    )
    assert re.search(r"3 1 - 3.11 0.9.0\b.* 1 1 - 3.11 0.9.1\b", text)
    assert "Not all runs were made with the same" in text
