"""Plans of training steps: what they say is what is compiled, and runs."""

import json

import jax
import jax.numpy as jnp
import pytest

import ptft_jax as pt
from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.parallel import cost
from ptft_jax.parallel import mesh as meshes
from ptft_jax.planning import chips, flops, forms, plan, search, tables, topologies
from ptft_jax.training.trainer import Trainer
from tests.processes import ROOT, ptft

LENGTH, ROWS, WIDTH, LAYERS, VOCAB = 32, 16, 32, 2, 64


def config(**changes):
    made = pt.recipe("pretrain/text:nothing")
    made.model.update(layers=LAYERS, width=WIDTH, heads=2, max_length=LENGTH, vocab_size=VOCAB, scan=True)
    made.data.update(length=LENGTH, batch_size=ROWS)
    for path, value in changes.items():
        part, _, name = path.partition("__")
        made[part][name] = value
    return made


@pytest.fixture(scope="module")
def machine():
    return topologies.Topology("cpu:8", jax.devices()[:8], 8, None)


def traced(function, *args):
    return flops.of_jaxpr(jax.make_jaxpr(function)(*args))


def test_operations_of_products_are_counted_by_hand():
    x, w, square = jnp.zeros((4, 8)), jnp.zeros((8, 16)), jnp.zeros((8, 8))
    groups, sizes = jnp.zeros((3, 8, 16)), jnp.array([1, 1, 2])
    product = 2 * 4 * 8 * 16
    assert traced(lambda a, b: a @ b, x, w) == product
    assert traced(jax.grad(lambda b: jnp.tanh(x @ b).sum()), w) == 2 * product, "the product, and its gradient"
    looped = jax.jit(lambda a: jax.lax.scan(lambda c, _: (c @ a, None), square, None, length=5)[0])
    assert traced(looped, square) == 5 * 2 * 8**3
    remade = jax.grad(lambda b: jax.checkpoint(lambda c: jnp.tanh(x @ c))(b).sum())
    assert traced(remade, w) == 3 * product, "what is recomputed counts again"
    ragged = jax.grad(lambda b, a: jnp.tanh(jax.lax.ragged_dot(a, b, sizes)).sum(), (0, 1))
    assert traced(ragged, groups, x) == 3 * product, "each row meets one group"
    chosen = lambda a: jax.lax.cond(a[0, 0] > 0, lambda y: y @ w @ w.T, lambda y: y + 0.0, a)  # noqa: E731
    assert traced(chosen, x) == 2 * product, "the longest branch"


def test_operations_are_those_of_the_compiled_step():
    """On one device, where nothing is done twice; without attention's blocks, of which a CPU leaves out some."""
    made = config()
    trainer = Trainer(made, mesh=meshes.make(1, 1, jax.devices()[:1]))
    batch = trainer.program.placed(forms.of(trainer))
    step = trainer.program.train.trace(trainer.state_like, batch)
    program = cost.parse(step.lower().compile().as_text())
    attention = 2 * 2 * ROWS * LENGTH**2 * WIDTH * LAYERS
    assert program.complete
    assert 0 <= flops.of_jaxpr(step.jaxpr) - program.flops <= 3 * attention


def test_a_plan_is_of_the_program_that_runs(machine):
    found = plan.plan(config(parallel__fsdp=4), machine)
    trainer = Trainer(config(parallel__fsdp=4), mesh=meshes.make(2, 4, machine.devices))
    state = trainer.init()
    held = sum(shard.data.nbytes for leaf in jax.tree.leaves((state.trainable, state.optimizer))
               for shard in leaf.addressable_shards if shard.device == machine.devices[0])  # fmt: skip
    assert found.memory["parameters that train"] + found.memory["optimizer"] == held
    assert (
        found.mesh == {"replica": 2, "fsdp": 4, "expert": 1, "context": 1, "tensor": 1}
        and found.devices == 8
        and found.tokens == ROWS * LENGTH
    )
    assert found.parameters == found.trainable == sum(a.size for a in jax.tree.leaves(trainer.shapes))
    assert found.fits is None and not found.bounds, "what this machine can do is not known"
    axes = {exchange.axes for exchange in found.exchanges}
    assert ("fsdp",) in axes, "parameters are gathered from those who hold them"
    assert json.loads(json.dumps(tables.as_json(found)))["tokens"] == found.tokens


@pytest.mark.parametrize("scan, remat", [(False, "none"), (True, "dots")])
def test_parameters_are_gathered_and_rows_are_not(scan, remat, machine):
    """No device is given what others compute of their rows, which is larger than any parameter."""
    trainer = Trainer(
        config(parallel__fsdp=8, model__scan=scan, model__remat=remat), mesh=meshes.make(1, 8, machine.devices)
    )
    batch = trainer.program.placed(forms.of(trainer))
    program = cost.parse(trainer.program.train.trace(trainer.state_like, batch).lower().compile().as_text())
    largest = max(4 * a.size // (LAYERS if "blocks" in str(path) else 1)
                  for path, a in jax.tree_util.tree_leaves_with_path(trainer.shapes))  # fmt: skip
    assert largest < 4 * ROWS * LENGTH * WIDTH
    gathered = [one for one in program.collectives() if one.kind == "all-gather"]
    assert gathered and max(one.bytes for one in gathered) <= largest
    kernels = 4 * LAYERS * 12 * WIDTH**2
    again = sum(one.times * one.bytes for one in gathered) >= 2 * kernels
    assert again is (remat == "dots"), "what is recomputed is gathered again; else it is kept"


def test_of_copies_gradients_alone_are_exchanged(machine):
    """All reduced once: as many bytes as there are parameters, and a few sums. (A tied table's two gradients are reduced apart.)"""
    found = plan.plan(config(model__tied=False), machine)
    assert {e.kind for e in found.exchanges} == {"all-reduce"}
    parameters = 4 * found.parameters
    assert parameters <= sum(e.bytes for e in found.exchanges) <= parameters + 64
    copied = [line for line in tables.advice(config(), found) if line.startswith("copied")]
    assert not copied, "none is large"


def test_low_rank_updates_of_a_parent_that_is_not_there(machine):
    made = config(tune__method="lora", parallel__fsdp=8)
    made.tune.lora.rank = 1
    found = plan.plan(made, machine, tuned=True)
    full = plan.plan(config(parallel__fsdp=8), machine)
    assert found.trainable < found.parameters and found.flops < full.flops
    assert found.memory["optimizer"] < full.memory["optimizer"] and found.memory["frozen parameters"] > 0


def test_what_a_device_can_do_bounds_a_step(machine):
    """By the formulas, of a made-up chip of two devices."""
    chip = chips.Chip(("made up",), 2e9, 4e12, 8e9, 2e9)
    found = plan.plan(config(parallel__fsdp=4), topologies.Topology("made up", machine.devices, 4, chip))
    assert found.capacity == 1e9 and found.fits
    assert found.bounds["products"] == pytest.approx(found.flops / 8 / 2e12)
    received = sum(
        e.bytes * (2 if e.kind == "all-reduce" else 1) * {("fsdp",): 3 / 4, ("replica",): 1 / 2}.get(e.axes, 7 / 8)
        for e in found.exchanges
    )
    assert found.bounds["exchanges"] == pytest.approx(received / 1e9)
    assert found.step == max(found.bounds.values())
    small = topologies.Topology("small", machine.devices, 4, chips.Chip((), 2e5, 1.0, 1.0, 1.0))
    tight = plan.plan(config(parallel__fsdp=4), small)
    assert tight.fits is False
    [said, *_] = tables.advice(config(parallel__fsdp=4), tight)
    assert "does not fit" in said and "parallel.fsdp=8" in said and "training.micro_batches=2" in said


def test_a_search_ranks_what_fits_first(machine, monkeypatch):
    chip = chips.Chip((), 8e9, 4e12, 8e9, 2e9)
    made = topologies.Topology("made up", machine.devices[:2], 2, chip)
    monkeypatch.setattr(search, "REMAT", ("none",))
    monkeypatch.setattr(search, "TENSOR", 1)
    found = search.tried(config(data__batch_size=2, model__layers=1), made)
    assert {one.settings["parallel.fsdp"] for one in found} == {1, 2}
    steps = [one.plan.step for one in found]
    assert steps == sorted(steps) and search.best(found) is found[0].plan


def test_all_is_tried_that_divides():
    """Of 6 devices and 24 rows, of a model of 2 heads: by hand. Two devices with the same rows have 8 together, of which a micro-batch has
    all, a half or less."""
    found = list(search.candidates(configs.settled(config(data__batch_size=24)), 6))
    meshes = {tuple(one[f"parallel.{axis}"] for axis in ("replica", "fsdp", "expert", "tensor")) for one in found}
    assert meshes == {(6, 1, 1, 1), (3, 2, 1, 1), (2, 3, 1, 1), (1, 6, 1, 1), (3, 1, 1, 2), (1, 3, 1, 2)}
    micro = {(one["parallel.tensor"], one["training.micro_batches"]) for one in found}
    assert micro == {(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (2, 8)}
    assert len(found) == (4 * 3 + 2 * 4) * 3 and {one["model.remat"] for one in found} == {"none", "dots", "full"}
    mixture = config(data__batch_size=24, model__experts=3, model__gated=True, model__biases=())
    assert {one["parallel.expert"] for one in search.candidates(configs.settled(mixture), 6)} == {1, 3}


def test_a_state_that_does_not_fit_is_not_compiled(machine, monkeypatch):
    """Of a chip that has half of what parameters and moments take."""
    monkeypatch.setattr(plan.cost, "memory", None)
    full = (
        3 * 4 * sum(a.size for a in jax.tree.leaves(Trainer(config(), mesh=meshes.make(8, 1, machine.devices)).shapes))
    )
    small = topologies.Topology("small", machine.devices, 8, chips.Chip((), full / 2, 1.0, 1.0, 1.0))
    found = plan.plan(config(), small)
    assert found.fits is False and full <= found.needs < full + 1000 and not found.exchanges
    assert any("the state alone" in line for line in tables.advice(config(), found))


@pytest.mark.parametrize(
    "kind, received",
    [("all-gather", 75), ("reduce-scatter", 300), ("all-reduce", 150), ("all-to-all", 75), ("collective-permute", 100)],
)
def test_what_is_received(kind, received):
    """Of 4 devices that have 100 bytes after it: Thakur et al. 2005, section 4; of a reduced part each of the others sends its own."""
    assert plan.got(kind, 100, 4) == received


@pytest.mark.parametrize(
    "changes, names",
    [
        ({"objective__name": "dpo"}, {"pairs"}),
        ({"objective__name": "kto"}, {"pairs"}),
        ({"objective__name": "unlikelihood"}, {"good"}),
        (
            {
                "objective__name": "process_reward",
                "objective__from_random": True,
                "model__head": "classes",
                "model__classes": 1,
            },
            {"right"},
        ),
        ({"objective__name": "classification", "model__head": "classes", "model__classes": 3}, {"targets"}),
        ({"objective__name": "masked_lm", "model__causal": False, "model__head": "masked_lm"}, {"weights"}),
        ({"objective__name": "span_corruption"}, {"prefix"}),
    ],
    ids=lambda value: value.get("objective__name") if isinstance(value, dict) else None,
)
def test_rows_of_objectives(changes, names, machine):
    """Without data and tokenizer, whatever the objective wants of these; shapes alone."""
    trainer = Trainer(config(**changes), mesh=meshes.make(8, 1, machine.devices), tuned=True)
    batch = forms.of(trainer)
    assert names <= set(batch) and batch["inputs"].shape == (ROWS, LENGTH)


def test_what_a_model_writes_is_not_planned(machine):
    with pytest.raises(
        UserError, match="objective.name = 'grpo': what a step learns from is written by the model, and is not planned"
    ):
        plan.plan(config(objective__name="grpo"), machine, tuned=True)


@pytest.mark.heavy
def test_a_parent_has_the_sizes(machine, tmp_path):
    """Not the config, in which they are left as they are by default."""
    made = config(model__vocab_size=0, data__source=f"text:{ROOT / 'README.md'}", training__steps=1, eval__tokens=500)
    summary = pt.train(made, tmp_path / "base")
    child = configs.default()
    child.data.update(source="text:nothing", length=LENGTH, batch_size=8)
    child.init.from_ = str(tmp_path / "base")
    found = plan.plan(child, machine)
    assert found.parameters == found.trainable == summary["parameters"]["trainable"]
    child.model.width = 2 * WIDTH
    with pytest.raises(UserError, match=f"model.width = {2 * WIDTH}, but the parent"):
        plan.plan(child, machine)


@pytest.mark.parametrize(
    "said, needs",
    [
        ("Used 20.25G of 15.75G hbm. Exceeded hbm capacity by 4.5G.", 20.25 * 2**30),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (17.46G) exceeds available HBM (15.75G).",
            17.46 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem.", None),
    ],
)
def test_what_a_compiler_says_that_is_needed(said, needs):
    """As those of libtpu said it."""
    assert plan._needs(said) == (needs and round(needs))


@pytest.mark.slow
def test_a_slice_of_tpus(tmp_path):
    """By the compiler of TPUs, which needs none. Parameters are gathered, and rows are not."""
    pytest.importorskip("libtpu")
    sizes = {"vocab_size": 64, "layers": 2, "width": 128, "heads": 2, "max_length": 128, "scan": False}
    words = [f"--config.model.{name}={value}" for name, value in sizes.items()]
    words += [
        "--config.data.length=128",
        "--config.data.batch_size=64",
        "--config.parallel.fsdp=4",
        "--topology=v5e:2x2",
    ]
    done = ptft("plan", "--config=pretrain/text:nothing", *words, "--cost=1", "--json", cache=tmp_path, check=True)
    found = json.loads(done.stdout)["plan"]
    assert found["fits"] and found["chips"] == found["devices"] == 4 and found["capacity"] == 16 * chips.GIB
    assert set(found["bounds"]) == {"products", "memory", "exchanges"} and found["step"] > 0
    assert {tuple(one["axes"]) for one in found["exchanges"]} == {("fsdp",)}
    rows = 4 * 64 * 128 * 128  # of all devices, in float32: what one exchange of them would come to
    assert sum(one["bytes"] for one in found["exchanges"] if one["kind"] == "all-gather") < rows


@pytest.mark.slow
def test_a_host_holds_moments_and_products(tmp_path):
    """By the compiler of TPUs: a device needs less by what its host has."""
    pytest.importorskip("libtpu")
    sizes = {"vocab_size": 512, "layers": 2, "width": 256, "heads": 2, "max_length": 128, "remat": "dots"}
    words = [f"--config.model.{name}={value}" for name, value in sizes.items()]
    words += ["--config.data.length=128", "--config.data.batch_size=64", "--topology=v5e:2x2", "--json"]

    def needs(*more):
        done = ptft("plan", "--config=pretrain/text:nothing", *words, *more, cache=tmp_path, check=True)
        return json.loads(done.stdout)["plan"]

    near, far, kept = needs(), needs("--config.optimizer.memory=host"), needs("--config.model.remat=offload")
    moments = far["memory"]["optimizer, of the host"]
    assert moments == near["memory"]["optimizer"] == pytest.approx(8 * near["trainable"], rel=1e-3)
    assert near["needs"] - far["needs"] > 0.5 * moments, "each is on the device while it is used"
    assert kept["needs"] < near["needs"]


@pytest.mark.slow
def test_a_kernel_keeps_no_scores(tmp_path):
    """By the compiler of TPUs, with rows and heads over devices: a device needs less by the scores of its rows, in float32, and more than once."""
    pytest.importorskip("libtpu")
    sizes = {"vocab_size": 512, "layers": 2, "width": 256, "heads": 4, "kv_heads": 2, "max_length": 2048}
    words = [f"--config.model.{name}={value}" for name, value in sizes.items()]
    words += ["--config.model.dtype=bfloat16", "--config.data.length=2048", "--config.data.batch_size=8", "--json"]
    words += ["--topology=v5e:2x2", "--config.parallel.fsdp=2", "--config.parallel.tensor=2"]

    def planned(*more):
        done = ptft("plan", "--config=pretrain/text:nothing", *words, *more, cache=tmp_path, check=True)
        return json.loads(done.stdout)["plan"]

    kernel, formula = planned(), planned("--config.model.attention=xla")
    rows, heads = 8 // 2, 4 // 2
    assert formula["needs"] - kernel["needs"] > 4 * rows * heads * 2048**2
    assert kernel["flops"] < formula["flops"], "blocks that come after their queries are left out"


@pytest.mark.parametrize(
    "name, said",
    [
        ("v5:4x4", "did you mean 'v5p'"),
        ("v5e", "such as v5e:4x4"),
        ("cpu:0", "such as cpu:8"),
        ("v5p:4x", "such as v5p:2x2x1"),
    ],
)
def test_names_of_no_topology(name, said):
    with pytest.raises(UserError, match=said):
        topologies.parted(name)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"data__batch_size": 12}, "expected a multiple of the 8 devices"),
        ({"parallel__fsdp": 3}, "there are 8 devices"),
        ({"optimizer__memory": "host"}, "a CPU has no memory but the host's: expected 'device'"),
        ({"model__remat": "offload"}, "a CPU has no memory but the host's: expected 'dots'"),
        ({"model__vocab_size": 0}, "model.vocab_size = 0"),
        ({"parallel__compile": "pmap"}, "parallel.compile = 'pmap': a program for each device is not planned"),
        (
            {"init__from_": "/nowhere/run"},
            "no such folder /nowhere/run; a parent that is not there is planned by --tuned",
        ),
    ],
)
def test_what_does_not_divide_is_said(changes, said, machine):
    with pytest.raises(UserError, match=said):
        plan.plan(config(**changes), machine)


def test_chips_are_as_jax_has_them():
    """Of the versions that both know, to what sources round and measure differently (bandwidth of v5p: 2.46 and 2.77 TB/s)."""
    from jax.experimental.pallas import tpu

    cores = {"v4": 2, "v5e": 1, "v5p": 2, "v6e": 1, "tpu7x": 2}
    names = {"v4": "v4", "v5e": "v5e", "v5p": "v5p", "v6e": "v6e", "tpu7x": "7x"}
    known = {version.value: version for version in tpu.ChipVersion}
    for name, chip in chips.CHIPS.items():
        info = tpu.get_tpu_info_for_chip(known[names[name]], 1)
        for ours, theirs in (
            (chip.memory, info.hbm_capacity_bytes),
            (chip.flops, info.bf16_ops_per_second),
            (chip.bandwidth, info.mem_bw_bytes_per_second),
        ):
            assert ours == pytest.approx(cores[name] * theirs, rel=0.15)
