"""Tasks in files of our own: the same figures as the harness' own model for Hugging Face has, of what we export."""

import json

import pytest

from ptft_jax.errors import UserError
from ptft_jax.evaluation import harness
from ptft_jax.runs import loading
from ptft_jax.verbs import export
from tests.helpers import quiet_train, tiny_config

pytest.importorskip("lm_eval", reason="needs ptft_jax[lm-eval], which make live does not install")
pytestmark = pytest.mark.live
CITIES = ["Paris", "Rome", "Oslo", "Bern"]
COMMON = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}\ntest_split: test\nfewshot_split: train\nmetadata: {{version: 1}}\n"
TASKS = {
    "cities": 'output_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_choice: "{{options}}"\ndoc_to_target: "{{answer}}"\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n',
    "ends": 'output_type: loglikelihood\ndoc_to_text: "{{question}}"\ndoc_to_target: " {{city}}"\nmetric_list: [{metric: perplexity}, {metric: acc}]\n',
    "alone": 'output_type: multiple_choice\ndoc_to_text: ""\ndoc_to_choice: "{{options}}"\ndoc_to_target: "{{answer}}"\nmetric_list: [{metric: acc}]\n',
    "texts": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]\n',
    "says": 'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{city}}"\ngeneration_kwargs: {until: ["\\n", "z"], max_gen_toks: 6, do_sample: false}\nmetric_list: [{metric: exact_match}]\n',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tasks")
    with open(made / "q.jsonl", "w") as file:
        for n in range(12):
            text = f"the cat number {n} lives in"
            row = {
                "question": text,
                "options": CITIES,
                "answer": n % 4,
                "city": CITIES[n % 4],
                "text": f"{text} {CITIES[n % 4]} " * (1 + n % 3),
            }
            print(json.dumps(row), file=file)
    for name, text in TASKS.items():
        (made / f"{name}.yaml").write_text(f"task: {name}\n{COMMON.format(data=made / 'q.jsonl')}{text}")
    return made


@pytest.fixture(scope="module")
def run(text_file, tmp_path_factory):
    config = tiny_config(text_file, model__max_length=64, model__scan=True, training__steps=6)
    config.tokenizer.update(kind="bpe", vocab_size=300)
    config.eval.update(test=False, tokens=256)
    workdir = tmp_path_factory.mktemp("run") / "base"
    quiet_train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def theirs(run, tmp_path_factory):
    from lm_eval.models.huggingface import HFLM

    out = tmp_path_factory.mktemp("exported") / "hf"
    export.model(str(run), "hf", out, dtype="float32")
    return HFLM(pretrained=str(out), device="cpu", dtype="float32", batch_size=3, max_length=64)


@pytest.mark.parametrize("fewshot", [0, 2])
def test_figures_are_those_of_the_export(fewshot, run, theirs, folder):
    from lm_eval.evaluator import simple_evaluate

    names = [name for name in TASKS if not fewshot or name != "texts"]
    rows = []
    ours = harness.measure(loading.load(str(run)), names, include=str(folder), fewshot=fewshot, batch_size=4, rows=rows)
    manager = harness.check_tasks(names, str(folder))
    found = simple_evaluate(model=theirs, tasks=names, num_fewshot=fewshot, task_manager=manager, bootstrap_iters=0, random_seed=1234, numpy_random_seed=1234, fewshot_random_seed=1234)  # fmt: skip
    compared = 0
    for task, measured in found["results"].items():
        for key, value in measured.items():
            name, _, filtered = key.partition(",")
            if filtered and not name.endswith("_stderr"):
                assert ours["values"][f"{task}/{name}"] == pytest.approx(value, rel=1e-3, abs=1e-3), (task, name)
                compared += 1
    assert compared == len(ours["values"]) >= 6
    # What was said, text by text, and each log-probability.
    for row in rows:
        other = next(r for r in found["samples"][row["task"]] if r["doc_id"] == row["doc_id"])
        for mine, its in zip(row["filtered_resps"], other["filtered_resps"]):
            if isinstance(mine, str):
                assert mine == its
            else:
                values = [
                    (float(m), float(i))
                    for m, i in zip(*(v if isinstance(v, (tuple, list)) else (v,) for v in (mine, its)))
                ]
                assert all(m == pytest.approx(i, abs=1e-3) for m, i in values), row["task"]


def test_a_token_that_reaches_into_the_continuation(run):
    """Where the harness' own model stops; any text that is one token of several letters does."""
    from lm_eval.api.instance import Instance

    loaded = loading.load(str(run))
    model = harness.language_model(loaded)
    word = next(
        text for text in map(lambda i: loaded.tokenizer.decode([i]), range(290)) if len(text) > 1 and text.isalpha()
    )
    request = Instance("loglikelihood", {}, (word[0], word[1:]), 0)
    (found,) = model.loglikelihood([request])
    expected = model.requests.likelihoods([(model.tok_encode(word[0]), model.tok_encode(word[1:], False))])
    assert [found] == expected and model.requests.cut["joined"] == 1


def test_in_a_chat_template(run, folder):
    """What is asked is a user's turn; without a template of the tokenizer's own, one has to be named."""
    rows, loaded = [], loading.load(str(run))
    harness.measure(
        loaded, ["says"], include=str(folder), template="chatml", limit=1, gen_kwargs="max_gen_toks=2", rows=rows
    )
    asked = (
        rows[0]["arguments"][0][0]
        if isinstance(rows[0]["arguments"], (list, tuple))
        else rows[0]["arguments"]["gen_args_0"]["arg_0"]
    )
    assert asked == "<|im_start|>user\nthe cat number 0 lives in<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(UserError, match="--apply_chat_template"):
        harness.measure(loaded, ["says"], include=str(folder), template="default", limit=1)


def test_an_unknown_task(folder):
    with pytest.raises(UserError, match="--tasks: there is no task 'citys'.*cities"):
        harness.check_tasks(["citys"], str(folder))
