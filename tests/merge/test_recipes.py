"mergekit's YAML files as people write them: mergekit and ours make the same of one file, or ours refuses it by name."

import shutil
from string import Template

import pytest
import torch
import yaml
from models_on_disk import MINI
from safetensors.torch import load_file, save_file

from mmtmerge.core import UserError
from mmtmerge.merge.checkpoints import merge_checkpoints
from mmtmerge.merge.mergekit_yaml import read_config

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LAYERS = 4
FORMS = {"llama": "LlamaConfig", "qwen2": "Qwen2Config"}
BOTH = pytest.mark.parametrize("kind", FORMS)


def tiny(kind, folder):
    "A random model of four layers, and three around it."
    import transformers

    torch.manual_seed(0)
    tokens = len(transformers.AutoTokenizer.from_pretrained(MINI))
    sizes = dict(vocab_size=tokens, hidden_size=16, intermediate_size=24, num_hidden_layers=LAYERS)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=kind == "qwen2")
    config = getattr(transformers, FORMS[kind])(**sizes, **heads)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    for name in TOKENIZER:
        shutil.copyfile(MINI / name, folder / "base" / name)
    base, g = load_file(folder / "base/model.safetensors"), torch.Generator().manual_seed(1)

    def near(state, size):
        return {name: x + size * torch.randn(x.shape, generator=g) for name, x in state.items()}

    base = near(base, 0.02)
    for who in ("base", "a", "b", "c"):
        if who != "base":
            shutil.copytree(folder / "base", folder / who)
        state = base if who == "base" else near(base, 0.01)
        save_file(state, folder / who / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="session")
def tinies(tmp_path_factory):
    "Folder of each architecture, with base, a, b and c."
    root = tmp_path_factory.mktemp("tinies")
    for kind in FORMS:
        (root / kind).mkdir()
        tiny(kind, root / kind)
    return root


@pytest.fixture
def here(tinies, kind):
    "Names of the models of one architecture, as they stand in a file -> their folders."
    return {who: str(tinies / kind / who) for who in ("base", "a", "b", "c")}


def by_mergekit(text, out):
    "What mergekit makes of a file: name -> tensor."
    pytest.importorskip("mergekit")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = MergeConfiguration.model_validate(yaml.safe_load(text))
    run_merge(config, str(out), MergeOptions(quiet=True))
    return load_file(out / "model.safetensors")


def by_us(text, folder):
    "What we make of a file: name -> tensor."
    file = folder / "merge.yml"
    file.write_text(text)
    merge_checkpoints(**read_config(file), out=folder / "ours", progress=False)
    return load_file(folder / "ours/model.safetensors")


def equal(text, here, folder):
    "Both make the same of a file, to 1e-6."
    text = Template(text).substitute(here)
    ours, theirs = by_us(text, folder), by_mergekit(text, folder / "theirs")
    theirs = {name: x for name, x in theirs.items() if name in ours or name != "lm_head.weight"}
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        assert x.dtype == theirs[name].dtype
        assert torch.allclose(x, theirs[name], rtol=1e-6, atol=1e-6), name


def refused(text, here, folder):
    "The message of a refusal; without a trace on the disk."
    file = folder / "merge.yml"
    if isinstance(text, str):
        text = Template(text).substitute(here)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        merge_checkpoints(**read_config(file), out=folder / "ours", progress=False)
    assert [path.name for path in folder.iterdir()] == ["merge.yml"]
    return str(error.value)


TIES = """
merge_method: ties
base_model: $base
models:
  - {model: $a, parameters: {weight: 1.0, density: .6}}
  - {model: $b, parameters: {weight: 0.5}}
parameters: {density: .8}
dtype: float32
"""

UNCHANGED = {
    "name": TIES + "name: my-merge\n",
    "automatic template": TIES + "tokenizer_source: base\nchat_template: auto\n",
    "union": TIES + "tokenizer_source: union\n",
    "tokenizer": TIES + "tokenizer: {source: union}\n",
    "tokenizer of an expert": TIES + "tokenizer_source: $a\n",
    "misplaced dtype": TIES.replace("{model: $b,", "{model: $b, dtype: bfloat16,"),
    "list of one": TIES.replace("weight: 1.0", "weight: [1.0]"),
    "torch.float32": TIES.replace("dtype: float32", "dtype: torch.float32"),
}


@BOTH
@pytest.mark.parametrize("text", UNCHANGED.values(), ids=list(UNCHANGED))
def test_what_changes_nothing(here, tmp_path, text):
    "Keys that change nothing where all models agree."
    equal(text, here, tmp_path)


BROKEN = {
    "UTF-16": (TIES.encode("utf-16"), "not text in UTF-8"),
    "Latin-1": (("# modèle\n" + TIES).encode("latin-1"), "not text in UTF-8"),
    "empty": ("", "no mergekit configuration"),
    "only dashes": ("---\n", "no mergekit configuration"),
    "list": ("- merge_method: ties\n", "no mergekit configuration"),
    "two documents": (TIES + "---\n" + TIES, "is not YAML"),
    "no date": (TIES + "name: 2024-13-45\n", "is not YAML"),
    "deep": ("a: " + "[" * 5000, "is not YAML"),
    "parameters as a list": (TIES.replace("parameters: {density: .8}", "parameters: [{density: .8}]"), "parameters"),
    "own parameters as a list": (TIES.replace("{weight: 0.5}", "[{weight: 0.5}]"), "model 2: parameters"),
    "parameters as text": (TIES.replace("{weight: 0.5}", "weight"), "model 2: parameters"),
    "models as a mapping": ("merge_method: ties\nmodels: {a: b}\n", "models"),
    "a model as a list": (TIES.replace("{model: $b", "{model: [b]"), "model 2: model"),
    "base as a list": (TIES.replace("base_model: $base", "base_model: [$base]"), "base_model"),
    "method as a list": (TIES.replace("merge_method: ties", "merge_method: [ties]"), "merge_method"),
    "dtype as a list": (TIES.replace("dtype: float32", "dtype: [float32]"), "dtype"),
    "unknown dtype": (TIES.replace("dtype: float32", "dtype: float64"), "dtype"),
    "tokenizer as a list": (TIES + "tokenizer_source: [base]\n", "tokenizer_source"),
    "template as a list": (TIES + "chat_template: [auto]\n", "chat_template"),
    "another template": (TIES + "chat_template: chatml\n", "chat_template"),
    "a weight of text": (TIES.replace("weight: 0.5", "weight: high"), "weight of"),
    "a weight of nothing": (TIES.replace("weight: 0.5", "weight: []"), "weight of"),
    "a weight of dates": (TIES.replace("weight: 0.5", "weight: 2024-01-01"), "weight of"),
    "a number as a key": (TIES + "1: 2\n", "unknown key 1"),
    "NUL": (TIES.replace("{model: $b", '{model: "b\\0"'), "model 2"),
    "a long name": (TIES.replace("{model: $b", f"{{model: {'b' * 5000}"), "bbb"),
    "a long base": (TIES.replace("base_model: $base", f"base_model: {'b' * 5000}+"), "bbb"),
    "mixture of experts": ("gate_mode: hidden\nexperts: []\nbase_model: base\n", "mixture of experts"),
    "evolve": ("genome: {models: [a]}\ntasks: []\n", "evolutionary"),
}


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("text, said", BROKEN.values(), ids=list(BROKEN))
def test_no_traceback(here, tmp_path, text, said):
    "Files that are no configuration are refused, with the file and the key."
    message = refused(text, here, tmp_path)
    assert said in message
    assert "merge.yml" in message


SLERP = """
merge_method: slerp
base_model: $base
models: [{model: $base}, {model: $a}]
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float32
"""

VARIED = """
merge_method: METHOD
base_model: $base
models:
  - model: $a
    parameters:
      weight: [0.2, 1, 0.4]
  - model: $b
    parameters:
      weight:
        - {filter: mlp, value: [0.9, 0.1]}
        - {filter: q_proj, value: 0.7}
        - value: 0.3
  - model: $c
parameters:
  weight:
    - {filter: norm, value: 1e-1}
    - {filter: "*", value: [0.5, 0.25, 0.75, 0.5, 1]}
  OTHERS
dtype: float32
"""
DENSITY = "density: [{filter: self_attn, value: [0.3, 0.9]}, {value: 0.6}]"
LAMBDA = "lambda: [0.5, 1.5]"
SWITCH = "normalize: [true, false, true]"


def varied(method, *others):
    "A file with weights that depend on the tensor, and more parameters."
    return VARIED.replace("METHOD", method).replace("OTHERS", "\n  ".join(others))


GRADIENTS = {
    "slerp": SLERP,
    "slerp of one list": SLERP.split("parameters:")[0] + "parameters: {t: [0, .5, .3, .7, 1]}\ndtype: float32\n",
    "linear": varied("linear"),
    "linear with a switch": varied("linear", SWITCH),
    "task_arithmetic": varied("task_arithmetic", LAMBDA),
    "ties": varied("ties", DENSITY, LAMBDA),
    "ties with a switch": varied("ties", DENSITY, "normalize: [{filter: mlp, value: 0}]"),
    "breadcrumbs": varied("breadcrumbs", DENSITY, "gamma: [0.01, 0.1]"),
    "breadcrumbs_ties": varied("breadcrumbs_ties", DENSITY, "gamma: [0.01, 0.1]", LAMBDA),
    "dare_linear of all": varied("dare_linear", LAMBDA),
    "dare_ties of all": varied("dare_ties", LAMBDA),
    "sce": "merge_method: sce\nbase_model: $base\nmodels: [{model: $a}, {model: $b}, {model: $c}]\n"
    "parameters: {select_topk: [{filter: mlp, value: [0.1, 0.9]}, {value: 0.5}]}\ndtype: float32\n",
}


@BOTH
@pytest.mark.parametrize("text", GRADIENTS.values(), ids=list(GRADIENTS))
def test_gradients_and_filters(here, tmp_path, text):
    "Values that change from layer to layer, and by the tensor's name, in every method that takes them."
    equal(text, here, tmp_path)


UNFIT = {
    "no filter fits": (TIES.replace("weight: 0.5", "weight: [{filter: mlp, value: 1}]"), "no condition fits tensor"),
    "a filter as a list": (TIES.replace("weight: 0.5", "weight: [{filter: [a], value: 1}]"), "is no text"),
    "misspelt": (TIES.replace("weight: 0.5", "weight: [{fitler: mlp, value: 1}]"), "did you mean 'filter'?"),
    "out of range": (TIES.replace("density: .6", "density: [.5, 1.5]"), "density must be in [0, 1]: got 1.5"),
    "lambda": (TIES.replace("{density: .8}", "{lambda: [.5, .inf]}"), "lam must be a finite number"),
    "a nested list": (TIES.replace("weight: 0.5", "weight: [[1, 2]]"), "[1, 2] is no number"),
    "a mixed list": (TIES.replace("weight: 0.5", "weight: [1, {value: 2}]"), "stands between conditions"),
}


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("text, said", UNFIT.values(), ids=list(UNFIT))
def test_values_that_cannot_be(here, tmp_path, text, said):
    "Gradients and filters are checked like single numbers."
    message = refused(text, here, tmp_path)
    assert said in message
    assert "merge.yml" in message


def sliced(method, ranges, models, *more, own=()):
    "A file of slices: the same models in each, or those of one slice after the other."
    slices = []
    for number, layers in enumerate(ranges):
        entry = {"sources": [{"model": model, "layer_range": layers} for model in models]}
        slices.append(entry | (own[number] if own else {}))
    head = {"merge_method": method, "base_model": "$base", "slices": slices, "dtype": "float32"}
    return yaml.safe_dump(head) + "\n".join(more)


T = "parameters: {t: [{filter: self_attn, value: [0, .5, .3, .7, 1]}, {filter: mlp, value: [1, 0]}, {value: .5}]}"
HALVES, TWO = [[0, 2], [2, 4]], ["$base", "$a"]
SLICES = {
    "slerp": sliced("slerp", [[0, 4]], TWO, T),
    "slerp, base second": sliced("slerp", [[0, 4]], TWO[::-1], T),
    "slerp in halves": sliced("slerp", HALVES, TWO, T),
    "slerp, a value for each": sliced(
        "slerp", HALVES, TWO, own=[{"parameters": {"t": 0.2}}, {"parameters": {"t": [0.4, 0.9]}}]
    ),
    "uneven": sliced("slerp", [[0, 1], [1, 4]], TWO, T),
    "ties": sliced("ties", HALVES, ["$base", "$a", "$b"], "parameters: {weight: [.2, .9], density: .5}"),
    "linear": sliced("linear", HALVES, ["$base", "$a", "$b"], "parameters: {weight: [.2, .9]}"),
    "own parameters": """
slices:
  - sources:
      - {model: $base, layer_range: [0, 4]}
      - {model: $a, layer_range: [0, 4], parameters: {weight: [{filter: mlp, value: 0.9}]}}
      - {model: $b, layer_range: [0, 4], parameters: {weight: [0.1, 0.8]}}
    parameters: {weight: [{filter: norm, value: 0.3}], density: 0.7}
merge_method: ties
base_model: $base
parameters: {weight: 0.5}
dtype: float32
""",
}


@BOTH
@pytest.mark.parametrize("text", SLICES.values(), ids=list(SLICES))
def test_slices_that_are_a_plain_merge(here, tmp_path, text):
    "Slices that cover equal models once, in order."
    equal(text, here, tmp_path)


UNSLICED = {
    "a gap": (sliced("slerp", [[0, 1], [2, 4]], TWO, T), "slice 2: layer_range"),
    "twice": (sliced("slerp", [[0, 4], [0, 4]], TWO, T), "slice 2: layer_range"),
    "short": (sliced("slerp", [[0, 3]], TWO, T), "another depth"),
    "no range": (sliced("slerp", [None], TWO, T), "slice 1, source 1: layer_range"),
    "no base": (sliced("ties", [[0, 4]], ["$a", "$b"], "parameters: {weight: 1}"), "the base"),
    "passthrough": (sliced("passthrough", [[0, 4]], ["$a"]), "passthrough"),
    "no list": ("merge_method: slerp\nbase_model: $base\nslices: {sources: []}\n", "slices"),
    "empty": ("merge_method: slerp\nbase_model: $base\nslices: []\n", "slices"),
    "both": (TIES + "slices: []\n", "models and slices"),
    "modules": ("merge_method: slerp\nbase_model: $base\nmodules: {default: {}}\n", "modules"),
}


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("text, said", UNSLICED.values(), ids=list(UNSLICED))
def test_slices_that_are_not(here, tmp_path, text, said):
    "Other slices are refused by name."
    message = refused(text, here, tmp_path)
    assert said in message
    assert "merge.yml" in message


# The forms that mergekit's documentation and examples show, written anew for the tiny models
SHOWN = {
    "linear": "models: [{model: $a, parameters: {weight: 1.0}}, {model: $b, parameters: {weight: 0.3}}]\n"
    "merge_method: linear\ndtype: float32\n",
    "gradient of slerp over slices": sliced("slerp", [[0, 4]], TWO, T),
    "gradient of slerp over models": SLERP,
    "ties with gradients": TIES.replace("density: .6", "density: [1, 0.7, 0.1]").replace(
        "weight: 0.5", "weight: [0, 0.3, 0.7, 1]"
    ),
    "conditional weight": TIES.replace("weight: 0.5", "weight: [{filter: mlp, value: 0.5}, {value: 0}]"),
    "normalize and int8_mask": TIES.replace("{density: .8}", "{density: .8, normalize: true, int8_mask: true}"),
    "named": TIES + "name: first-merge\n",
    "automatic template": TIES + "tokenizer_source: union\nchat_template: auto\n",
    "tokenizer of the base": TIES + "tokenizer: {source: base}\n",
    "task_arithmetic": varied("task_arithmetic", LAMBDA),
    "model_stock": "merge_method: model_stock\nbase_model: $base\nmodels: [{model: $a}, {model: $b}]\ndtype: float32\n",
    "karcher": "merge_method: karcher\nmodels: [{model: $a}, {model: $b}]\ndtype: float32\n",
    "sce": GRADIENTS["sce"],
}
REFUSED = {
    "padded vocabulary": TIES + "tokenizer: {source: base, pad_to_multiple_of: 64}\n",
    "tokens of their own": TIES + "tokenizer: {source: union, tokens: {a: {source: $a}}}\n",
    "template of a name": TIES + "chat_template: llama3\n",
    "modules": "merge_method: linear\nmodules: {text_decoder: {models: []}}\n",
    "stack of layers": sliced("passthrough", [[0, 3]], ["$a"]),
    "adapter": TIES.replace("{model: $b", "{model: $b+adapter"),
    "mixture of experts": "base_model: $base\ngate_mode: random\nexperts: [{source_model: $a}]\n",
    "nuslerp": TIES.replace("ties", "nuslerp"),
    "multislerp": TIES.replace("ties", "multislerp"),
    "nearswap": SLERP.replace("slerp", "nearswap"),
    "arcee_fusion": SLERP.replace("slerp", "arcee_fusion"),
    "ram": TIES.replace("ties", "ram"),
}


def test_forms_that_are_shown(tinies, tmp_path):
    "Of 25 forms 13 run, each equal to mergekit's result, and 12 are refused by name."
    here = {who: str(tinies / "llama" / who) for who in ("base", "a", "b", "c")}
    for number, text in enumerate(SHOWN.values()):
        (tmp_path / f"run{number}").mkdir()
        equal(text, here, tmp_path / f"run{number}")
    for number, text in enumerate(REFUSED.values()):
        (tmp_path / f"refused{number}").mkdir()
        assert "merge.yml" in refused(text, here, tmp_path / f"refused{number}")
    assert (len(SHOWN), len(REFUSED)) == (13, 12)
