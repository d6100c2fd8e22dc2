"mergekit's YAML files as people write them: mergekit and ours make the same of one file, or ours refuses it by name."

import json
import shutil
from string import Template

import pytest
import torch
import yaml
from models_on_disk import MINI
from safetensors.torch import load_file, save_file

from mmtmerge.core import UserError
from mmtmerge.merge.checkpoints import merge_checkpoints
from mmtmerge.merge.mergekit_multi import merge_documents, has_steps
from mmtmerge.merge.mergekit_yaml import read_config

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LAYERS = 4
FORMS = {"llama": "LlamaConfig", "qwen2": "Qwen2Config"}
OTHERS = {"gpt2": "GPT2Config", "bloom": "BloomConfig"}   # which call their number of layers otherwise
BOTH = pytest.mark.parametrize("kind", FORMS)


def tiny(kind, folder):
    "A random model of four layers, and three around it."
    import transformers

    torch.manual_seed(0)
    tokens = len(transformers.AutoTokenizer.from_pretrained(MINI))
    sizes = dict(vocab_size=tokens, hidden_size=16, intermediate_size=24, num_hidden_layers=LAYERS)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=kind == "qwen2")
    if kind in OTHERS:
        sizes, heads = dict(vocab_size=tokens, hidden_size=16, n_layer=LAYERS, n_head=4), {}
    config = getattr(transformers, (FORMS | OTHERS)[kind])(**sizes, **heads)
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
    if kind in FORMS:
        adapter(folder / "b", folder / "lora")


def adapter(model, folder):
    "A random LoRA adapter for some projections of a model."
    import transformers
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(2)
    get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)


@pytest.fixture(scope="session")
def tinies(tmp_path_factory):
    "Folder of each architecture, with base, a, b and c."
    root = tmp_path_factory.mktemp("tinies")
    for kind in FORMS | OTHERS:
        (root / kind).mkdir()
        tiny(kind, root / kind)
    return root


@pytest.fixture
def here(tinies, kind):
    "Names of the models of one architecture, as they stand in a file -> their folders."
    return {who: str(tinies / kind / who) for who in ("base", "a", "b", "c", "lora")}


def by_mergekit(text, out):
    "What mergekit makes of a file: name -> tensor."
    pytest.importorskip("mergekit")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    if "\n---\n" in text:
        return by_multimerge(text, out)
    config = MergeConfiguration.model_validate(yaml.safe_load(text))
    run_merge(config, str(out), MergeOptions(quiet=True, lora_merge_cache=f"{out}-adapters"))
    return load_file(out / "model.safetensors")


def by_multimerge(text, out):
    "What mergekit makes of several merges in one file: the one without a name."
    from click.testing import CliRunner
    from mergekit.scripts.multimerge import main

    file = out.with_name("several.yml")
    file.write_text(text)
    arguments = [str(file), "--out-path", str(out), "-I", str(out.with_name("intermediate")), "--quiet"]
    arguments += ["--lora-merge-cache", f"{out}-adapters"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return load_file(out / "model.safetensors")


def by_us(text, folder):
    "What we make of a file: name -> tensor."
    file = folder / "merge.yml"
    file.write_text(text)
    if has_steps(file):
        merge_documents(file, folder / "ours", progress=False)
    else:
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
    "empty slices": TIES + "slices: []\n",
    "no modules": TIES + "modules: null\n",
}


@BOTH
@pytest.mark.parametrize("text", UNCHANGED.values(), ids=list(UNCHANGED))
def test_what_changes_nothing(here, tmp_path, text):
    "Keys that change nothing where all models agree."
    equal(text, here, tmp_path)


SLERP = "merge_method: slerp\nbase_model: $base\nmodels: [{model: $base}, {model: $a}]\ndtype: float32\n"
PASSED_OVER = {
    "normalize": SLERP + "parameters: {t: .4, normalize: true, int8_mask: true}\n",
    "weight": "merge_method: model_stock\nbase_model: $base\ndtype: float32\n"
              "models: [{model: $a, parameters: {weight: .3}}, {model: $b}]\n",
    "density": "merge_method: linear\ndtype: float32\n"
               "models: [{model: $a, parameters: {weight: .3, density: .4}}, {model: $b, parameters: {weight: 1}}]\n",
    "random_seed": SLERP + "parameters: {t: .4}\nrandom_seed: 3\nmetadata: {by: me}\n",
    "embed_slerp": SLERP + "parameters: {t: .4, embed_slerp: true}\n",
    "rescale": TIES.replace("{weight: 0.5}", "{weight: 0.5, rescale: true}"),
    "layer_range": TIES.replace("{model: $b,", "{model: $b, layer_range: [0, 2],"),
    "residual_weight": "merge_method: linear\ndtype: float32\nparameters: {weight: 1}\nslices:\n"
                       "- residual_weight: .3\n"
                       "  sources: [{model: $a, layer_range: [0, 4]}, {model: $b, layer_range: [0, 4]}]\n",
}


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("key", PASSED_OVER)
def test_what_mergekit_passes_over_is_told(here, tmp_path, capsys, key):
    equal(PASSED_OVER[key], here, tmp_path)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert any(repr(key) in note for note in notes)


TYPES = dict(base=torch.bfloat16, a=torch.float32, b=torch.float16)


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("who", ["a", "b"])
def test_models_of_several_types_without_one_for_the_result(here, tmp_path, capsys, who):
    for name in ("base", who):
        folder = shutil.copytree(here[name], tmp_path / "of" / name)
        state = load_file(folder / "model.safetensors")
        save_file({key: x.to(TYPES[name]) for key, x in state.items()}, folder / "model.safetensors", {"format": "pt"})
        here[name] = str(folder)
    text = "merge_method: task_arithmetic\nbase_model: $base\nmodels: [{model: $WHO}]\nparameters: {weight: .5}\n"
    equal(text.replace("WHO", who), here, tmp_path)
    assert "the result is float32" in capsys.readouterr().err


COVERING = "merge_method: linear\nparameters: {weight: 1}\nslices:\n" \
           "- sources: [{model: $a, layer_range: [0, 4]}, {model: $b, layer_range: [0, 4]}]\n"


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("base", ["", "base_model: $a\n", "base_model: $c\n"])
def test_a_base_that_is_not_read_is_told(here, tmp_path, capsys, base):
    file = tmp_path / "merge.yml"
    file.write_text(Template(base + COVERING).substitute(here))
    read_config(file)
    assert ("is no source, and not read" in capsys.readouterr().err) == ("$c" in base)


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("other", [torch.float8_e4m3fn, torch.float64])
def test_types_that_cannot_be_written_do_not_decide(here, tmp_path, other):
    folder = shutil.copytree(here["a"], tmp_path / "a")
    state = load_file(folder / "model.safetensors")
    save_file({key: x.to(other) for key, x in state.items()}, folder / "model.safetensors", {"format": "pt"})
    file = tmp_path / "merge.yml"
    file.write_text(TIES.replace("dtype: float32\n", "").replace("$a", str(folder)).replace("$base", here["base"])
                    .replace("$b", here["b"]))
    assert read_config(file)["dtype"] is None


BROKEN = {
    "a block for nothing": (TIES + "x: &p {weight: 1.0}\n", "unknown key 'x'"),
    "one folder as two models": (TIES.replace("{model: $b", "{model: '$base@main'"), "written with a revision"),
    "a revision of no folder": (TIES.replace("{model: $b", "{model: {model: {path: b, revision: x}}"), "'revision'"),
    "UTF-16": (TIES.encode("utf-16"), "not text in UTF-8"),
    "Latin-1": (("# modèle\n" + TIES).encode("latin-1"), "not text in UTF-8"),
    "empty": ("", "no mergekit configuration"),
    "only dashes": ("---\n", "no mergekit configuration"),
    "list": ("- merge_method: ties\n", "no mergekit configuration"),
    "two documents": (TIES + "---\n" + TIES, "holds 2 merges"),
    "a key twice": (TIES + "dtype: bfloat16\n", "'dtype' is given twice, line 9"),
    "a tab": (TIES.replace("  - {model: $b", "\t- {model: $b"), "that cannot start any token, line 6"),
    "itself": (TIES + "x: &m {y: *m}\n", "Circular reference"),
    "no date": (TIES + "name: 2024-13-45\n", "is not YAML"),
    "deep": ("a: " + "[" * 5000, "is not YAML"),
    "parameters as a list": (TIES.replace("parameters: {density: .8}", "parameters: [{density: .8}]"), "parameters"),
    "own parameters as a list": (TIES.replace("{weight: 0.5}", "[{weight: 0.5}]"), "model 2: parameters"),
    "parameters as text": (TIES.replace("{weight: 0.5}", "weight"), "model 2: parameters"),
    "models as a mapping": ("merge_method: ties\nmodels: {a: b}\n", "models: {'a': 'b'} is no list"),
    "a model as a list": (TIES.replace("{model: $b", "{model: [b]"), "model 2: model"),
    "base as a list": (TIES.replace("base_model: $base", "base_model: [$base]"), "base_model"),
    "method as a list": (TIES.replace("merge_method: ties", "merge_method: [ties]"), "merge_method"),
    "dtype as a list": (TIES.replace("dtype: float32", "dtype: [float32]"), "dtype"),
    "wide dtype": (TIES.replace("dtype: float32", "dtype: float64"), "float32 is the widest type"),
    "unknown dtype": (TIES.replace("dtype: float32", "dtype: int8"), "unknown dtype"),
    "dtype as a number": (TIES.replace("dtype: float32", "dtype: 0"), "unknown dtype 0"),
    "tokenizer as a list": (TIES + "tokenizer_source: [base]\n", "tokenizer_source"),
    "template as a list": (TIES + "chat_template: [auto]\n", "chat_template"),
    "another template": (TIES + "chat_template: chatmll\n", "did you mean 'chatml'"),
    "a weight of text": (TIES.replace("weight: 0.5", "weight: high"), "weight of"),
    "a weight of nothing": (TIES.replace("weight: 0.5", "weight: []"), "weight of"),
    "a weight of dates": (TIES.replace("weight: 0.5", "weight: 2024-01-01"), "weight of"),
    "parameters as a number": (TIES.replace("parameters: {density: .8}", "parameters: 5"), "5 is no mapping"),
    "a weight beyond all numbers": (TIES.replace("weight: 0.5", f"weight: {10**400}"), "too large"),
    "a switch beyond all numbers": (TIES.replace("density: .8}", f"normalize: {10**400}}}"), "too large"),
    "a number as a key": (TIES + "1: 2\n", "unknown key 1"),
    "NUL": (TIES.replace("{model: $b", '{model: "b\\0"'), "model 2"),
    "a long name": (TIES.replace("{model: $b", f"{{model: {'b' * 5000}"), "bbb"),
    "a long base": (TIES.replace("base_model: $base", f"base_model: {'b' * 5000}+"), "bbb"),
    "a weight for some tensors": (
        "merge_method: linear\nmodels:\n- {model: $a, parameters: {weight: [{filter: mlp, value: .5}]}}\n"
        "- {model: $b, parameters: {weight: .5}}\n", "no condition fits"),
    "a weight in some layers": (
        "merge_method: linear\nslices:\n"
        "- sources: [{model: $a, layer_range: [0, 2]}, {model: $b, layer_range: [0, 2]}]\n  parameters: {weight: 1}\n"
        "- sources: [{model: $a, layer_range: [2, 4]}, {model: $b, layer_range: [2, 4]}]\n", "no condition fits"),
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


KARCHER = "merge_method: karcher\nmodels: [{model: $a}, {model: $b}, {model: $c}]\ndtype: float32\nparameters: {HOW}\n"
MEANT = {
    "a weight of yes": TIES.replace("weight: 0.5", "weight: yes"),
    "weights of switches and numbers": TIES.replace("weight: 0.5", "weight: [true, false, 3]"),
    "switches in words": TIES.replace(
        "{density: .8}", "{density: [true, '0.5'], normalize: ['off', 'Yes'], int8_mask: '1', rescale: 1.0, lambda: on}"
    ),
    "switches by filters": varied("linear", "normalize: [{filter: mlp, value: 'n'}, {value: [no, 'T']}]"),
    "filter_wise by layers": "merge_method: model_stock\nbase_model: $base\nmodels: [{model: $a}, {model: $b}]\n"
    "parameters: {filter_wise: [0, 'on']}\ndtype: float32\n",
    "whole numbers": KARCHER.replace("HOW", "max_iter: '20', tol: 0"),
    "whole numbers by tensor": KARCHER.replace(
        "HOW", "max_iter: [{filter: mlp, value: 3.0}, {value: [1, 4]}], tol: [0, 1e-3]"
    ),
}


MEANT |= {
    "keys without a value": "slices: null\nmodules: null\nchat_template:\n" + TIES,
    "a block that is named by one that is named":
    TIES.replace("{weight: 0.5}", "&q {<<: &p {weight: 0.5}, density: .3}").replace("{density: .8}", "{<<: *q}"),
    "a base that is no source": "merge_method: linear\nbase_model: $c\ndtype: float32\nslices:\n"
    "- sources: [{model: $a, layer_range: [0, 4]}, {model: $b, layer_range: [0, 4]}]\nparameters: {weight: .7}\n",
    "a block for several": "x: &p {weight: 1.0}\ny: [&q {<<: *p}]\n" + TIES.replace("{weight: 0.5}", "{<<: *q}"),
    "an empty block of tokens": TIES + "tokenizer: {source: base, tokens: {}, pad_to_multiple_of: null}\n",
    "revisions": TIES.replace("{model: $b,", "{model: '$b@main',").replace("base: $base", "base: $base@x"),
    "a revision in the long form": TIES.replace(
        "{model: $b,",
        "{model: {model: {path: $b, revision: v2}, override_architecture: LlamaForCausalLM},",
    ),
    "revisions of an adapter": TIES.replace("{model: $b,", "{model: '$b@main+$lora@x',"),
}


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("text", MEANT.values(), ids=list(MEANT))
def test_a_value_means_what_its_parameter_takes(here, tmp_path, text):
    equal(text, here, tmp_path)


UNFIT = {
    "half a number": (KARCHER.replace("HOW", "max_iter: 2.5"), "max_iter: 2.5 is no whole number"),
    "half a number between layers": (KARCHER.replace("HOW", "max_iter: [1, 2]"), "max_iter: 1.33333 for tensor"),
    "no switch": (TIES.replace("{density: .8}", "{density: .8, normalize: 2}"), "normalize: 2 is no switch"),
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


@pytest.mark.parametrize("kind", ["llama"])
def test_a_filter_that_fits_nothing_is_told(here, tmp_path, capsys):
    equal(TIES.replace("weight: 0.5", "weight: [{filter: self_atn, value: .9}, {value: .5}]"), here, tmp_path)
    assert "filter 'self_atn' fits no tensor of" in capsys.readouterr().err


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
    "uneven": sliced("slerp", [[0, 1], ["1", 4.0]], TWO, T),
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


IN_HALVES = """
merge_method: slerp
base_model: $base
slices:
  - sources: [{model: $base, layer_range: [0, 2]}, {model: $a, layer_range: [0, 2]}]
  - sources: [{model: $base, layer_range: [2, 4]}, {model: $a, layer_range: [2, 4]}]
parameters: {t: [0.2, 0.6]}
dtype: float32
"""


@pytest.mark.parametrize("kind", OTHERS)
def test_slices_of_models_that_name_their_depth_otherwise(here, tmp_path, kind):
    equal(IN_HALVES, here, tmp_path)


@pytest.mark.parametrize("kind", ["gpt2"])
def test_a_stack_of_layers_of_gpt2(here, tmp_path, capsys):
    pieces = "slices: [{sources: [{model: $base, layer_range: [0, 3]}]}, {sources: [{model: $a, layer_range: [1, 4]}]}]"
    equal(f"merge_method: passthrough\n{pieces}\ndtype: float32\n", here, tmp_path)
    assert json.loads((tmp_path / "ours/config.json").read_text())["n_layer"] == 6
    assert f"what follows the layers is that of {here['a']}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["bloom"])
@pytest.mark.parametrize("own", [0, 1])
def test_the_end_of_slices_is_told(here, tmp_path, capsys, own):
    "Architectures that mergekit has no file of: it takes the first slice's value for what follows the layers."
    slices = [f"- sources: [{{model: $base, layer_range: {layers}}}, {{model: $a, layer_range: {layers}}}]\n"
              for layers in HALVES]
    slices[own] += "  parameters: {select_topk: 0.3}\n"
    text = "merge_method: sce\nbase_model: $base\ndtype: float32\nslices:\n" + "".join(slices)
    by_us(Template(text).substitute(here), tmp_path)
    assert "what follows the layers has the values of the last slice" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("order", [["$deep", "$a"], ["$a", "$deep"]])
def test_slices_of_a_deeper_model(here, tmp_path, order):
    "The order of the sources changes nothing."
    import transformers

    torch.manual_seed(3)
    config = transformers.AutoConfig.from_pretrained(here["a"])
    config.num_hidden_layers = 6
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "deep")
    for name in TOKENIZER:
        shutil.copy(f"{here['a']}/{name}", tmp_path / "deep")
    text = sliced("slerp", [[0, 4]], order, "parameters: {t: .3}").replace("base_model: $base", "base_model: $deep")
    equal(text, here | {"deep": str(tmp_path / "deep")}, tmp_path)


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("method", ["arcee_fusion", "ramplus_tl"])
def test_methods_that_widen_are_told(here, tmp_path, capsys, method):
    models = "[{model: $a}]" if method == "arcee_fusion" else "[{model: $a}, {model: $b}]"
    text = two(method, "$base", "{}", models).replace("dtype: float32", "dtype: bfloat16")
    by_us(Template(text).substitute(here), tmp_path)
    assert f"mergekit's {method} writes float32" in capsys.readouterr().err


def stacked(method, *slices, more="", base="$base"):
    "A file of slices with their own sources: (model, first layer, first behind, parameters)."
    entries = []
    for sources in slices:
        entry = []
        for model, first, end, *own in sources:
            source = {"model": f"${model}", "layer_range": [first, end]}
            entry.append(source | ({"parameters": own[0]} if own else {}))
        entries.append({"sources": entry})
    head = {"merge_method": method, "slices": entries, "dtype": "float32"} | ({"base_model": base} if base else {})
    return yaml.safe_dump(head) + more


WEIGHTS = "parameters: {weight: [.2, .9]}"
STACKED = {
    "a gap": sliced("slerp", [[0, 1], [2, 4]], TWO, T),
    "twice": sliced("slerp", [[0, 4], [0, 4]], TWO, T),
    "short": sliced("slerp", [[0, 3]], TWO, T),
    "moved and repeated": stacked(
        "linear", [("a", 2, 4), ("b", 2, 4)], [("a", 0, 3), ("b", 0, 3)], more=WEIGHTS, base=None
    ),
    "layers of other numbers": stacked("ties", [("base", 0, 3), ("a", 1, 4), ("b", 0, 3)], more=WEIGHTS),
    "other models, each in its order": stacked(
        "ties",
        [("base", 0, 2), ("a", 0, 2, {"weight": 0.3}), ("b", 1, 3)],
        [("c", 0, 2, {"weight": [0.1, 0.8]}), ("base", 2, 4), ("b", 2, 4, {"density": 0.5})],
        more="parameters: {weight: .6, density: [{filter: mlp, value: .4}, {value: .7}]}",
    ),
    "a base that is averaged": stacked(
        "karcher", [("a", 1, 3), ("base", 0, 2)], [("base", 0, 1), ("b", 3, 4)], more="parameters: {max_iter: [1, 4]}"
    ),
    "a base that is no source": stacked("linear", [("a", 1, 3), ("b", 1, 3)], more=WEIGHTS),
    "an adapter": stacked("nuslerp", [("b+$lora", 1, 3), ("a", 0, 2), ("base", 0, 2)], more=WEIGHTS),
}


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("text", STACKED.values(), ids=list(STACKED))
def test_slices_that_merge_stacks_of_layers(here, tmp_path, text):
    "Layers left out, repeated, moved, of other numbers, of other models."
    equal(text, here, tmp_path)


@pytest.mark.parametrize("kind", ["qwen2"])
def test_a_stack_knows_its_kinds_of_layers(here, tmp_path):
    "Another depth, which mergekit cannot write for this architecture; the card names all models."
    from transformers import AutoModelForCausalLM

    by_us(Template(STACKED["layers of other numbers"]).substitute(here), tmp_path)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert len(made.model.layers) == len(made.config.layer_types) == 3
    card = (tmp_path / "ours/README.md").read_text()
    assert all(f"| {who}/model.safetensors |" in card for who in ("base", "a", "b"))


UNSLICED = {
    "fewer sources": (stacked("linear", [("a", 0, 2), ("b", 0, 2)], [("a", 2, 4)], more=WEIGHTS), "slice 2: 1 sources"),
    "ranges of other lengths": (stacked("linear", [("a", 0, 2), ("b", 0, 3)], more=WEIGHTS), "have [2, 3] layers"),
    "a slice without the base": (
        stacked("ties", [("base", 0, 2), ("a", 0, 2)], [("b", 2, 4), ("a", 2, 4)], more=WEIGHTS),
        "must be a source of every slice",
    ),
    "no range": (sliced("slerp", [None], TWO, T), "slice 1, source 1: layer_range"),
    "no base": (sliced("ties", [[0, 4]], ["$a", "$b"], "parameters: {weight: 1}"), "the base"),
    "two models copied": (sliced("passthrough", [[0, 4]], TWO), "passthrough takes one model"),
    "layers that are not there": (sliced("passthrough", [[2, 6]], ["$a"]), "has 4 layers: 2 to 5 were asked for"),
    "a filter that moves": (
        sliced("passthrough", [[1, 3]], ["$a"], "parameters: {scale: [{filter: layers.0., value: 0}, {value: 1}]}"),
        "filter by what does not move",
    ),
    "no list": ("merge_method: slerp\nbase_model: $base\nslices: {sources: []}\n", "slices"),
    "empty": ("merge_method: slerp\nbase_model: $base\nslices: []\n", "lists no models"),
    "an empty module": ("merge_method: slerp\nbase_model: $base\nmodules: {default: {}}\n", "lists no models"),
    "another module": ("merge_method: linear\nmodules: {text_decoder: {models: []}}\n", "modules: text_decoder"),
}


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("text, said", UNSLICED.values(), ids=list(UNSLICED))
def test_slices_that_are_not(here, tmp_path, text, said):
    "Other slices are refused by name."
    message = refused(text, here, tmp_path)
    assert said in message
    assert "merge.yml" in message


def two(method, base="", parameters="{weight: 1}", models="[{model: $a}, {model: $b, parameters: {weight: 3}}]"):
    "A file for two models, with a base or without."
    base = f"base_model: {base}\n" if base else ""
    return f"merge_method: {method}\n{base}models: {models}\nparameters: {parameters}\ndtype: float32\n"


PAIR = "[{model: $base}, {model: $a}]"
OF_MERGEKIT = {
    "nuslerp": two("nuslerp"),
    "nuslerp around a base": two("nuslerp", "$base"),
    "nuslerp, base listed": two("nuslerp", "$base", models="[{model: $base}, {model: $a}, {model: $b}]"),
    "nuslerp by vectors": two("nuslerp", "$base", "{weight: 1, nuslerp_flatten: false}"),
    "nuslerp by rows": two("nuslerp", "", "{weight: 1, nuslerp_flatten: false, nuslerp_row_wise: true}"),
    "nuslerp with gradients": two("nuslerp", "$base", "{weight: [{filter: mlp, value: [0, 1]}, {value: 0.5}]}"),
    "nuslerp of opposite weights": two("nuslerp", "", "{weight: -3}"),
    "nuslerp over slices": sliced("nuslerp", HALVES, ["$a", "$b"], "parameters: {weight: [.2, .9]}").replace(
        "base_model: $base\n", ""
    ),
    "multislerp": two("multislerp"),
    "multislerp around a base": varied("multislerp").replace("weight: [0.2, 1, 0.4]", "weight: 0.7"),
    "multislerp, weights as they are": two("multislerp", "$base", "{weight: 0.4, normalize_weights: false}"),
    "multislerp with a large eps": two("multislerp", "", "{weight: 0.4, eps: 0.01}"),
    "multislerp of one": two("multislerp", "$base", models="[{model: $a}]"),
    "nearswap": two("nearswap", "$base", "{t: 0.004}", PAIR),
    "nearswap with gradients": two("nearswap", "$base", "{t: [{filter: mlp, value: [0, 0.01]}, {value: 1e-3}]}", PAIR),
    "arcee_fusion": two("arcee_fusion", "$base", "{}", PAIR),
    "ram": two("ram", "$base", "{epsilon: 0.005}", "[{model: $a}, {model: $b}, {model: $c}]"),
    "ram by default": two("ram", "$base", "{}", "[{model: $a}, {model: $b}]"),
    "ramplus_tl": two("ramplus_tl", "$base", "{epsilon: 0.01, r: 0.5, alpha: 0.9}", "[{model: $a}, {model: $b}]"),
    "ramplus_tl by default": two("ramplus_tl", "$base", "{}", "[{model: $a}, {model: $b}, {model: $c}]"),
    "passthrough": two("passthrough", "", "{scale: [{filter: mlp, value: [0.5, 1.5]}]}", "[{model: $a}]"),
}


@BOTH
@pytest.mark.parametrize("text", OF_MERGEKIT.values(), ids=list(OF_MERGEKIT))
def test_methods_of_mergekit(here, tmp_path, text):
    "Methods that only mergekit's code describes, with a base and without."
    equal(text, here, tmp_path)


def copied(*pieces, more="", head="merge_method: passthrough\ndtype: float32\n"):
    "A file that stacks layers: (model, first layer, first behind, parameters)."
    slices = []
    for model, first, end, *parameters in pieces:
        source = {"model": model, "layer_range": [first, end]}
        slices.append({"sources": [source | ({"parameters": parameters[0]} if parameters else {})]})
    return head + yaml.safe_dump({"slices": slices}) + more


QUIET = {"scale": [{"filter": "o_proj", "value": 0}, {"filter": "down_proj", "value": 0}, {"value": 1}]}
STACKS = {
    "one model deeper": copied(("$a", 0, 3), ("$a", 1, 4)),
    "two models": copied(("$a", 0, 3), ("$b", 2, 4)),
    "shallower": copied(("$a", 0, 1), ("$b", 3, 4)),
    "moved": copied(("$b", 2, 4), ("$a", 0, 2)),
    "as it is": copied(("$a", 0, 4)),
    "repeated and silent": copied(("$a", 0, 2), ("$a", 1, 2, QUIET), ("$a", 2, 4)),
    "scaled by all": copied(("$a", 0, 2), ("$b", 1, 4), more="parameters: {scale: [{filter: mlp, value: [0.2, 1]}]}\n"),
    "with a base": copied(("$a", 0, 2), ("$b", 1, 4), more="base_model: $base\n"),
    "a tokenizer": copied(("$a", 0, 2), ("$b", 1, 4), more="base_model: $a\ntokenizer_source: base\n"),
}


def by_hand(text):
    "A stack without scales: each layer from its source, the embeddings of the first source, the rest of the last."
    pieces = [piece["sources"][0] for piece in yaml.safe_load(text)["slices"]]
    states = [load_file(f"{piece['model']}/model.safetensors") for piece in pieces]
    wanted = {name: x for name, x in states[-1].items() if ".layers." not in name}
    wanted |= {name: x for name, x in states[0].items() if "embed" in name}
    number = 0
    for piece, state in zip(pieces, states):
        for layer in range(*piece["layer_range"]):
            prefix = f"model.layers.{layer}."
            for name in state:
                if name.startswith(prefix):
                    wanted[name.replace(prefix, f"model.layers.{number}.")] = state[name]
            number += 1
    return wanted


@BOTH
@pytest.mark.parametrize("text", STACKS.values(), ids=list(STACKS))
def test_stacks_of_layers(here, kind, tmp_path, text):
    "Layers are copied, renumbered, repeated and scaled; the configuration follows, and Transformers loads the result."
    from transformers import AutoModelForCausalLM

    if kind == "llama":
        equal(text, here, tmp_path)
    else:  # mergekit cannot write it: it leaves layer_types at its old length
        made = by_us(Template(text).substitute(here), tmp_path)
        wanted = by_hand(Template(text).substitute(here))
        assert made.keys() == wanted.keys()
        for name in made:
            assert "scale" in text or torch.equal(made[name], wanted[name])
    config = json.loads((tmp_path / "ours/config.json").read_text())
    ranges = [piece["sources"][0]["layer_range"] for piece in yaml.safe_load(text)["slices"]]
    layers = sum(end - first for first, end in ranges)
    assert config["num_hidden_layers"] == layers == len(config.get("layer_types", range(layers)))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    assert len(model.model.layers) == layers
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


SEVERAL = """
name: first
merge_method: task_arithmetic
base_model: $base
models: [{model: $a, parameters: {weight: 0.5}}]
dtype: float32
---
name: second
merge_method: passthrough
slices:
  - sources: [{model: first, layer_range: [0, 4]}]
dtype: float32
---
merge_method: nuslerp
base_model: $base
models:
  - model: second
  - model: $b
parameters: {weight: 1}
dtype: float32
"""
WRAPPED = {
    "models": """
merge_method: ties
base_model: $base
modules:
  default:
    parameters: {weight: [0.2, 0.8]}
    models: [{model: $a, parameters: {density: 0.5}}, {model: $b}]
parameters: {weight: 1, normalize: true}
dtype: float32
""",
    "nothing beside models": """
merge_method: linear
modules: {default: {slices: null, models: [{model: $a}]}}
parameters: {weight: 1}
dtype: float32
""",
    "nulls in several merges": """
{merge_method: linear, models: [{model: $a}], parameters: {weight: 1}, name: one, dtype: float32, modules: null}
---
slices: null
merge_method: slerp
base_model: $base
models: [{model: one}]
parameters: {t: .4}
dtype: float32
""",
    "slices": """
merge_method: passthrough
modules: {default: {slices: [{sources: [{model: $a, layer_range: [0, 4]}]}]}}
dtype: float32
""",
}


@BOTH
@pytest.mark.parametrize("text", [SEVERAL, *WRAPPED.values()], ids=["several merges", *WRAPPED])
def test_other_forms(here, tmp_path, text):
    "Several merges in one file, and the only module of a text model."
    equal(text, here, tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


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
SHOWN |= {
    "modules": WRAPPED["models"],
    "stack of layers": STACKS["two models"],
    "stack of layers with silent copies": STACKS["repeated and silent"],
    "nuslerp": OF_MERGEKIT["nuslerp around a base"],
    "multislerp": OF_MERGEKIT["multislerp"],
    "nearswap": OF_MERGEKIT["nearswap"],
    "arcee_fusion": OF_MERGEKIT["arcee_fusion"],
    "ram": OF_MERGEKIT["ram by default"],
    "ramplus_tl": OF_MERGEKIT["ramplus_tl by default"],
    "several merges": SEVERAL,
    "template of a name": TIES + "chat_template: llama3\n",
    "adapter": TIES.replace("{model: $b", "{model: $b+$lora"),
}
REFUSED = {
    "padded vocabulary": TIES + "tokenizer: {source: base, pad_to_multiple_of: 64}\n",
    "tokens of their own": TIES + "tokenizer: {source: union, tokens: {a: {source: $a}}}\n",
    "mixture of experts": "base_model: $base\ngate_mode: random\nexperts: [{source_model: $a}]\n",
    "evolve": "genome: {models: [$a]}\ntasks: []\n",
}


def test_forms_that_are_shown(tinies, tmp_path):
    "Of the 29 forms 25 run, each equal to mergekit's result, and 4 are refused by name."
    here = {who: str(tinies / "llama" / who) for who in ("base", "a", "b", "c", "lora")}
    for number, text in enumerate(SHOWN.values()):
        (tmp_path / f"run{number}").mkdir()
        equal(text, here, tmp_path / f"run{number}")
    for number, text in enumerate(REFUSED.values()):
        (tmp_path / f"refused{number}").mkdir()
        assert "merge.yml" in refused(text, here, tmp_path / f"refused{number}")
    assert (len(SHOWN), len(REFUSED)) == (25, 4)


LONG = "{model: {model: {path: $b}, lora: {path: $lora}}"
ADAPTED = {
    "of the base": TIES.replace("base_model: $base", "base_model: $base+$lora"),
    "in the long form": TIES.replace("{model: $b", LONG),
    "twice": TIES.replace("{model: $b", "{model: $b+$lora").replace("{model: $a", "{model: $a+$lora"),
    "in several merges": SEVERAL.replace("{model: $a", "{model: $a+$lora"),
}


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("text", ADAPTED.values(), ids=list(ADAPTED))
def test_adapters(here, tmp_path, text):
    assert "lora" in text
    equal(text, here, tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def without_weights(adapter):
    (adapter / "adapter_model.safetensors").unlink()


def of_another_kind(adapter):
    file = adapter / "adapter_config.json"
    file.write_text(file.read_text().replace('"LORA"', '"LOHA"'))


def of_another_model(adapter):
    file = adapter / "adapter_config.json"
    file.write_text(file.read_text().replace('"q_proj"', '"query"').replace('"down_proj"', '"query2"'))


def of_other_sizes(adapter):
    state = load_file(adapter / "adapter_model.safetensors")
    save_file({name: x[:, :1].contiguous() for name, x in state.items()}, adapter / "adapter_model.safetensors")


def incomplete(adapter):
    state = load_file(adapter / "adapter_model.safetensors")
    state.pop(next(iter(state)))
    save_file(state, adapter / "adapter_model.safetensors")


WRONG = {
    without_weights: "has no adapter_model.safetensors: weights are read from safetensors only",
    of_another_kind: "is an adapter of type LOHA: only LORA",
    of_another_model: "does not fit",
    of_other_sizes: "does not fit",
    incomplete: "does not fit",
}


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("spoil, said", WRONG.items(), ids=[f.__name__ for f in WRONG])
def test_adapters_that_are_none(here, tmp_path, spoil, said):
    shutil.copytree(here["lora"], tmp_path / "lora")
    spoil(tmp_path / "lora")
    file, left = tmp_path / "merge.yml", {"merge.yml", "lora"}
    text = TIES.replace("{model: $b", "{model: $b+$lora")
    file.write_text(Template(text).substitute(here | {"lora": str(tmp_path / "lora")}))
    with pytest.raises(UserError, match=said):
        merge_documents(file, tmp_path / "ours", progress=False)
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("asked", ["chatml", "auto", "text"])
def test_chat_templates(here, tmp_path, asked):
    "Transformers reads the same template from both results."
    from transformers import AutoTokenizer

    models = {}
    for who in ("base", "a", "b", "c"):
        models[who] = str(shutil.copytree(here[who], tmp_path / who))
        if who in ("a", "b"):
            (tmp_path / who / "chat_template.jinja").write_text("{{ messages }} as the experts have it")
    written = "{% for message in messages %}{{ message.content }}{% endfor %}"
    text = Template(TIES).substitute(models) + f"chat_template: {repr(written) if asked == 'text' else asked}\n"
    by_us(text, tmp_path)
    by_mergekit(text, tmp_path / "theirs")
    ours, theirs = (AutoTokenizer.from_pretrained(tmp_path / who).chat_template for who in ("ours", "theirs"))
    assert ours.strip() == theirs.strip() != AutoTokenizer.from_pretrained(models["base"]).chat_template.strip()


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("asked", ["tokenizer_source: $b", "tokenizer: {source: $b}", "tokenizer_source: $beside"])
def test_the_tokenizer_of_another_model(here, tmp_path, capsys, asked):
    "Its special tokens and its template come along, whether or not it is merged."
    from transformers import AutoTokenizer

    models = {"base": here["base"], "a": here["a"]}
    for who in ("b", "beside"):
        models[who] = str(shutil.copytree(here["b"], tmp_path / who))
        (tmp_path / who / "chat_template.jinja").write_text(f"{{{{ messages }}}} as {who} has it")
        file = tmp_path / who / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | dict(padding_side="left", model_max_length=77)))
    text = Template(TIES + asked + "\n").substitute(models)
    by_us(text, tmp_path)
    by_mergekit(text, tmp_path / "theirs")
    ours, theirs = (AutoTokenizer.from_pretrained(tmp_path / who) for who in ("ours", "theirs"))
    for entry in ("chat_template", "padding_side", "model_max_length", "eos_token", "special_tokens_map"):
        assert getattr(ours, entry) == getattr(theirs, entry), entry
    assert ours.padding_side == "left"
    told = (tmp_path / "ours/README.md").read_text()
    assert "| tokenizer and template | of b" in told and ("of b:" in told) == ("beside" in asked)
