"""Families of plugins: that of docs/plugins.md, imported, exported, and where it is not named."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from ptft_jax.config import plugins
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.interop import export, families
from ptft_jax.parallel.sharding import on_one_device
from ptft_jax.params.rules import flatten
from ptft_jax.runs import source as restore
from tests.interop import small
from tests.processes import ROOT

PAGE = (ROOT / "docs/plugins.md").read_text()
(ALPACA,) = re.findall(r"`mypkg/alpaca.py`:\n\n```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "alpaca_of_the_page.py").write_text(ALPACA)
    yield ("alpaca_of_the_page",)
    plugins.tables.cache_clear()
    families.known.cache_clear()


def test_out_and_in(plugin, tmp_path):
    """The tensors are those of Llama's folder under their own names; what is read back is the same model."""
    fields, known = {**small.LLAMA, "layers": 1}, {"family": "alpaca", "plugins": plugin}
    export.to_folder(
        export.Exported(small.params_of(fields), fields, None, [], **known), tmp_path / "alpaca", dtype="float32"
    )
    theirs = dict(export.Exported(small.params_of(fields), fields, None, [], family="llama").tensors("float32"))
    written = load_file(tmp_path / "alpaca/model.safetensors")
    config = json.loads((tmp_path / "alpaca/config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("alpaca", ["AlpacaForCausalLM"])
    assert "model.layers.0.attention.q_proj.weight" in written
    renamed = {name.replace("self_attn.", "attention."): array for name, array in theirs.items()}
    assert renamed.keys() == written.keys()
    for name, array in renamed.items():
        np.testing.assert_array_equal(written[name], array)

    with pytest.raises(UserError, match="model_type 'alpaca' is not supported, only gpt2, llama,"):
        restore.find(f"hf:{tmp_path / 'alpaca'}")
    with pytest.raises(UserError, match="model_type 'llamas' is not supported, only gpt2, .*, siglip, alpaca .did you"):
        families.get("llamas", "test", plugin)
    found = restore.find(f"hf:{tmp_path / 'alpaca'}", plugins=plugin)
    assert found.config.plugins == plugin
    meant = flatten(small.params_of(fields))
    for path, array in flatten(found.parameters(on_one_device)).items():
        np.testing.assert_array_equal(array, meant[path])

    # What was imported as such is exported as such, where the plugin is named; else as a family of the package.
    chain = found.lineage("")
    assert families.of(found.fields, chain, plugins=plugin)[0].model_type == "alpaca"
    assert families.of(found.fields, chain)[0].model_type == "llama"
    # A model that the package has a family for is not written as that of a plugin without being asked.
    assert families.of(found.fields, [], plugins=plugin)[0].model_type == "llama"


def test_a_name_of_its_own(plugin, tmp_path):
    (tmp_path / "misnamed_family.py").write_text(ALPACA.replace('{"alpaca": Fam', '{"guanaco": Fam'))
    with pytest.raises(UserError, match="FAMILIES.'guanaco'.: its model_type is 'alpaca'"):
        families.known(("misnamed_family",))
    (tmp_path / "no_class.py").write_text(ALPACA + "FAMILIES = {'x-y': FamilySpec(Alpaca())}\n")
    with pytest.raises(UserError, match="FAMILIES: .*Alpaca object .* is no class that is made without arguments"):
        families.known(("no_class",))
    (tmp_path / "second_llama.py").write_text(ALPACA.replace('{"alpaca": Fam', '{"llama": Fam'))
    with pytest.raises(UserError, match="FAMILIES.'llama'. is one of the package's own already"):
        families.known(("second_llama",))


def test_data_is_looked_at_by_its_weights(plugin, tmp_path):
    """`ptft data show --run=hf:FOLDER --plugins=M` needs no more of the family than to find it."""
    from ptft_jax.verbs.data import selected

    fields = {**small.LLAMA, "layers": 1}
    folder, tokenizer = tmp_path / "alpaca", tok.ByteTokenizer()
    known = {"family": "alpaca", "plugins": plugin}
    fields["vocab_size"] = tokenizer.vocab_size
    exported = export.Exported(small.params_of(fields), fields, tokenizer, [], **known)
    export.to_folder(exported, folder, dtype="float32")
    with pytest.raises(UserError, match="model_type 'alpaca' is not supported"):
        selected._of_run(f"hf:{folder}", True, ())
    run = selected._of_run(f"hf:{folder}", True, plugin)
    assert tuple(run.values["plugins"]) == plugin and run.tokenizer.encode("ab").tolist() == list(b"ab")
