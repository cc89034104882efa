"""The commands and programs of pages of docs/, as they are typed, and what they promise."""

import json
import re

import pytest

from tests.e2e.test_documented import BLOCK, _run_block
from tests.processes import HURRY, ROOT

pytestmark = pytest.mark.heavy


def carry_out(page, folder, until=""):
    """Runs the blocks of a page (those before the heading `until`), in order, in an empty folder; what each printed."""
    text = (ROOT / f"docs/{page}.md").read_text()
    found = BLOCK.findall(text[: text.index(f"\n## {until}\n")] if until else text)
    return [_run_block(language, text, folder, XLA_FLAGS=HURRY) for language, text in found if language != "text"]


def summary(folder, name):
    return json.loads((folder / f"runs/{name}/summary.json").read_text())


@pytest.mark.parametrize("until", ["5. Use a run", pytest.param("", marks=pytest.mark.slow)])
def test_getting_started(until, tmp_path):
    printed = carry_out("getting_started", tmp_path, until)
    assert len(printed) == (4 if until else 5)
    runs = {name: summary(tmp_path, name) for name in ("base", "full", "lora")}
    assert all(run["finished"] for run in runs.values())
    assert runs["base"]["after"]["validation/nll"] < runs["base"]["before"]["validation/nll"] - 1
    assert runs["full"]["transfer"]["target"]["gain"] > 0
    assert runs["lora"]["parameters"]["trainable"] < runs["full"]["parameters"]["trainable"]
    groups = json.loads((tmp_path / "runs/compare.json").read_text())
    assert {group["name"] for group in groups} == {"full", "lora"}
    assert "<svg" in (tmp_path / "runs/compare.html").read_text()
    assert until or (tmp_path / "exports/lora/config.json").exists()


def answers(talk):
    """Whether the chatbot's answers are those of its data, and end by themselves."""
    [asked, first, thanked, second] = [line for line in talk.splitlines() if line]
    known = asked == "> What does the owl eat?" and re.fullmatch(r"The \w+ eats \w+\.", first)
    return known and thanked == "> Thanks!" and second == "You are welcome."


def test_launching(tmp_path):
    """Without the tools of any place: nothing but --dry_run."""
    tpu, gke, slurm, vertex = carry_out("launching", tmp_path)
    assert (
        "queued-resources create base --accelerator-type=v5litepod-16" in tpu
        and "--workdir=/gcs/my-bucket/base --processes=auto" in tpu
    )
    assert "kind: JobSet" in gke and "#SBATCH --nodes=2" in slurm and "tpuTopology: 2x4" in vertex


def test_images(tmp_path):
    printed, paired = carry_out("images", tmp_path)
    by_name = json.loads(paired[paired.rindex("{\n") :])
    assert by_name["examples"] > 100 and 0 <= by_name["probe/prompts"] <= 1
    assert "validation/text_recall_1" in summary(tmp_path, "pairs")["after"]
    found, _ = json.JSONDecoder().raw_decode(printed[printed.index("\n{\n") + 1 :])
    told, _ = json.JSONDecoder().raw_decode(printed[printed.rindex("\n{\n") + 1 :])
    assert "<img" in (tmp_path / "neighbors.html").read_text()
    assert told["pooling"] == "mean" and told["learned_from"] > 1000 and told["probe/ridge/all"] > 0.8
    assert {f"probe/{probe}/{shots}" for probe in ("ridge", "knn") for shots in (1, 10, "all")} <= told.keys()
    assert (tmp_path / "letters.png").read_bytes().startswith(b"\x89PNG")
    assert found["examples"] > 100 and summary(tmp_path, "digits")["finished"]


@pytest.mark.slow
def test_answers(tmp_path):
    _, _, evaluated, beside, own = carry_out("answers", tmp_path)
    run = summary(tmp_path, "sums")
    rows = [json.loads(line) for line in (tmp_path / "runs/sums/answers.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {0, 20, 40} and run["selected"]["metric"] == "validation/answers/exact"
    best = [row for row in rows if row["step"] == run["best_step"]]
    right = [row["answer"].strip() == row["reference"] for row in best]
    assert run["after"]["validation/answers/exact"] == run["selected"]["value"] == sum(right) / len(right)
    first, second = json.JSONDecoder().raw_decode(evaluated), json.loads(evaluated[evaluated.rindex("\n{") :])
    assert first[0]["answers"]["exact"] == run["selected"]["value"] and first[0]["answers"]["asked"] == len(best)
    kept = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in kept] == [row["answer"] for row in best]
    assert second["answers"]["split"] == "test" and 0 <= second["answers"]["regex"] <= 1
    asked, found = (json.loads(beside)["answers"][name] for name in ("asked", "against"))
    f1 = found["f1"]  # a right answer has the most
    assert f1["wins"] == f1["unscored"] == 0 < f1["losses"] and f1["ties"] + f1["losses"] == asked
    assert f1["win_rate"] == pytest.approx(f1["ties"] / 2 / asked) and found["answers"] == "reference"
    assert {"exact", "brief"} <= json.loads(own)["answers"].keys()


def test_behavior(tmp_path):
    _, _, compared, shown, own = carry_out("behavior", tmp_path)
    run = summary(tmp_path, "cities")
    assert run["selected"]["metric"] == "behavior/options/accuracy" and "behavior/recall/accuracy" in run["after"]
    compared = json.loads(compared[compared.index("{\n") :])
    assert [len(r["run"].split("@")) for r in compared["runs"]] == [2, 1] and compared["asked"]["known"] == 52
    found = json.loads((tmp_path / "behavior.json").read_text())
    assert [r["values"] for r in found["runs"]] == [r["values"] for r in compared["runs"]]
    assert found["runs"][0]["details"]["groups"]["level"] == 0.9
    # Risk and coverage, two of reliability, how sure, by group; the questions name no templates.
    assert (tmp_path / "behavior.html").read_text().count("<svg") == 5
    assert len((tmp_path / "said.jsonl").read_text().splitlines()) == 2 * 52
    assert "Where does P3 live?  [runs/tuned]" in shown and "<svg" in (tmp_path / "next.html").read_text()
    assert '"behavior/wordy/wordy"' in own


def test_retrieval(tmp_path):
    _, made, _, shown, _, states = carry_out("retrieval", tmp_path)
    one, two = (json.loads(text)["knn"] for text in re.split(r"(?<=\n\})\n", states[states.index("{\n") :])[:2])
    assert one["nll_without"] == two["nll_without"] != one["nll"] != two["nll"] and len(two["weights"]) == 2
    assert "made: indexes/documents: bm25, 105 passages" in made
    assert (
        "[1] P" in shown
        and "at most 3 passages each of indexes/documents (bm25, 105 passages of jsonl:documents.jsonl" in shown
    )
    encoder = summary(tmp_path, "encoder")
    assert encoder["after"]["validation/nll"] < encoder["before"]["validation/nll"]
    found = json.loads((tmp_path / "retrieval.json").read_text())
    [run] = found["runs"]
    assert run["values"]["behavior/retrieval/recall"] > 0.4
    rows = [json.loads(line) for line in (tmp_path / "read.jsonl").read_text().splitlines()]
    assert all(one["where"].startswith("documents.jsonl, line ") for row in rows for one in row["passages"])
    assert "documents.jsonl, line " in (tmp_path / "retrieval.html").read_text()
    data = json.loads((tmp_path / "runs/reader/data.json").read_text())
    index = json.loads((tmp_path / "indexes/documents/index.json").read_text())
    assert f'"fingerprint": "{index["fingerprint"]}"' in json.dumps(data)


@pytest.mark.slow
def test_a_chatbot(tmp_path):
    *_, talk, from_python = carry_out("chatbot", tmp_path, until="5. Choosing a rate")
    assert answers(talk) and from_python in talk


@pytest.mark.slow
def test_a_chatbot_and_its_rates(tmp_path):
    *_, talk, from_python, _ = carry_out("chatbot", tmp_path)
    assert answers(talk) and from_python in talk
    rates = [summary(tmp_path, name) for name in ("rate-1e-3", "bot", "rate-9e-3")]
    assert len({run["transfer"]["target"]["gain"] for run in rates}) == 3
    assert "<svg" in (tmp_path / "runs/rates.html").read_text()


def test_feedback(tmp_path):
    _, printed, _, exported, *_ = carry_out("feedback", tmp_path)
    run = summary(tmp_path, "dpo")
    assert run["before"]["validation/accuracy"] == 0.5 and run["after"]["validation/accuracy"] > 0.9
    assert run["transfer"]["source"]["before"] == pytest.approx(
        summary(tmp_path, "base")["after"]["validation/nll"], rel=1e-3
    )
    assert "step 0, row 0" in printed and " yes, " in printed
    reward = summary(tmp_path, "reward")
    assert reward["after"]["validation/accuracy"] > 0.9 and reward["after"]["validation/brier"] < 0.1
    assert "<|pad|>" in exported and (tmp_path / "exports/reward/model.safetensors").exists()
    rewarded = summary(tmp_path, "grpo")
    assert rewarded["selected"]["metric"] == "validation/answers/regex" and rewarded["selected"]["value"] > 0.4
    assert len(list((tmp_path / "runs/grpo/rollouts").iterdir())) == 10
    assert "right answer" in (tmp_path / "answers.html").read_text()
    valued = summary(tmp_path, "ppo")
    assert valued["finished"] and valued["step"] == 8 and len(list((tmp_path / "runs/ppo/rollouts").iterdir())) == 2
    for name in ("expert", "gkd"):
        assert summary(tmp_path, name)["step"] == len(list((tmp_path / f"runs/{name}/rollouts").iterdir())) == 4
    taught = summary(tmp_path, "small")
    assert taught["after"]["validation/kl"] < 0.5 and taught["after"]["validation/agreement"] > 0.8
    written = [json.loads(line) for line in (tmp_path / "taught.jsonl").read_text().splitlines()]
    # Of the training split; the base knows two kinds of answers, and writes the likelier one.
    assert len(written) > 50 and all(row["answer"].startswith((" yes, ", " no")) for row in written)
    assert summary(tmp_path, "taught")["after"]["validation/nll"] < 1
    assert len((tmp_path / "short.jsonl").read_text().splitlines()) == 32


@pytest.mark.slow
def test_principles(tmp_path):
    _, _, made, measured, _, conduct = carry_out("principles", tmp_path)
    facts = json.loads(made)
    polite = facts["principles"]["polite"]
    assert facts["asked"] == 80 and polite["violations_before"] > 20 and polite["violations_after"] == 0
    folder = tmp_path / "feedback/polite"
    for name in ("revised", "pairs"):
        assert len((folder / f"{name}.jsonl").read_text().splitlines()) == facts[name]["written"] > 10
    rude = [float(share) for share in re.findall(r'"regex": ([\d.]+)', measured)]
    assert len(rude) == 3 and rude[0] > 0.3 and max(rude[1:]) < rude[0] / 3
    assert float(re.search(r'"principles": ([\d.]+)', measured)[1]) == pytest.approx(1 - rude[1])
    assert re.findall(r"yes, (you fool|my friend)", conduct) == ["my friend", "my friend", "you fool"]


@pytest.mark.slow
def test_tools(tmp_path):
    *_, called, own = carry_out("tools", tmp_path)
    first, second = called.split('"run"')[1:]
    assert '"calls"' in first and '"calls"' not in second and '"calls"' in own


def test_scaling(tmp_path):
    found = BLOCK.findall((ROOT / "docs/scaling.md").read_text())
    blocks = [block for block in found if block[0] != "text"]  # one of a pod, which takes long
    printed = [_run_block(language, f"exec 2>&1\n{text}", tmp_path, XLA_FLAGS=HURRY) for language, text in blocks]
    meshed, searched, tuned = printed
    assert "replica 2 x fsdp 4" in meshed and "all-gather" in meshed
    assert "tried, the best first" in searched and "frozen parameters" in tuned


@pytest.mark.slow
def test_debugging(tmp_path):
    """What each block prints is what the page says that it shows."""
    _, groups, data, shown, rows = carry_out("debugging", tmp_path)
    frozen = [line for line in groups.splitlines() if line.startswith("frozen")]
    assert frozen and any("adapter" in line for line in groups.splitlines() if line.startswith("trainable"))
    assert re.search(r"^shakespeare:histories \d+ tokens, \d+ with loss in one epoch, in \d+ rows$", data, re.MULTILINE)
    assert "step 5, row 0" in shown and "[" in shown
    steps = [int(line.split()[0]) for line in rows.splitlines()]
    losses = [float(line.split()[1]) for line in rows.splitlines()]
    assert steps == sorted(steps) and steps[-1] == 40 and losses[-1] < losses[0]


def test_extending(tmp_path):
    config, study, loop = carry_out("extending", tmp_path)
    assert json.loads(config)["model"]["width"] == 64
    assert [line.split(":")[0] for line in study.splitlines()] == ["before", "after"]
    chain = json.loads((tmp_path / "runs/study/runs/child/lineage.json").read_text())
    assert chain[0]["workdir"].endswith("runs/study/runs/base")
    counted, *losses = loop.splitlines()
    assert re.fullmatch(r"[\d,]+ parameters train", counted) and len(losses) == 3
