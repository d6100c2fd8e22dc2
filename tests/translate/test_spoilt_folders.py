"Folders that are not whole, or spoilt: translate, probe and load_model refuse them, by name and before the work."

import importlib.util
import json
import shutil

import pytest
import torch
from conftest import REPO
from safetensors.torch import load_file, save_file
from test_engines import TALKATIVE, stand_in
from typer.testing import CliRunner

from mmtmerge.cli import app
from mmtmerge.core import UserError
from mmtmerge.engines import _converted_name, open_engine
from mmtmerge.models import check_weights, folder_tokenizer, load_model
from mmtmerge.prompts import check_ids, prompts
from mmtmerge.translate_files import model_digest, note_of

MINI = REPO / "mmtmerge/data/miniature"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture
def folder(tmp_path):
    "A copy of the miniature."
    return shutil.copytree(MINI, tmp_path / "checkpoint")


def set_weights(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def set_values(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def command(name, folder, out, *options):
    "A command in this process; the error that it ends with."
    words = ["translate", folder, "hi-en", "--quiet", "--out", out, *options]
    if name == "probe":
        words = ["probe", "--model", folder, "--direction", "en-hi", "--out", out, "--lines", 4]
    return CliRunner().invoke(app, [str(word) for word in words], input="पानी\n").exception


def refused(folder, out, message):
    "Both commands name the folder and the fault in one line, and leave nothing behind."
    for name in ("translate", "probe"):
        error = command(name, folder, out)
        assert isinstance(error, UserError), (name, error)
        assert message in str(error) and str(folder) in str(error) and "\n" not in str(error)
        assert [path for path in out.parent.iterdir() if path != folder] == []


WEIGHTS = {
    "a layer is missing": (
        lambda t: {k: v for k, v in t.items() if ".layers.1." not in k},
        "lacks the tensor 'model.layers.1.input_layernorm.weight'",
    ),
    "a wrapper": (lambda t: {f"module.{k}": v for k, v in t.items()}, "and holds 'module.model.embed_tokens.weight'"),
    "another shape": (lambda t: t | {"model.norm.weight": torch.ones(3)}, "'model.norm.weight' is (3,)"),
    "a weight too many": (lambda t: t | {"v_head.weight": torch.ones(3)}, "would drop the tensor 'v_head.weight'"),
}


@pytest.mark.parametrize("how", WEIGHTS)
def test_weights_that_are_not_whole(how, folder, tmp_path, monkeypatch):
    change, message = WEIGHTS[how]
    set_weights(folder, change)
    refused(folder, tmp_path / "out", message)
    stand_in(tmp_path, monkeypatch, TALKATIVE)
    engines = ["transformers", "vllm"] + ["ctranslate2"] * bool(importlib.util.find_spec("ctranslate2"))
    for asked in [load_model, check_weights, *(lambda f, e=e: open_engine(e, f, "float32") for e in engines)]:
        with pytest.raises(UserError) as error:
            asked(folder)
        assert message in str(error.value)


def test_a_head_that_is_untied_and_missing(folder, tmp_path):
    set_values(folder / "config.json", tie_word_embeddings=False)
    refused(folder, tmp_path / "out", "lacks the tensor 'lm_head.weight'")


WHOLE = {
    "a copy of the tied head": lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()},
    "a buffer": lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(12)},
    "a counter": lambda t: t | {"model.layers.0.self_attn.steps": torch.ones(1, dtype=torch.int64)},
    "names of the model without its head": lambda t: {k.removeprefix("model."): v for k, v in t.items()},
}


@pytest.mark.parametrize("how", WHOLE)
def test_weights_that_mean_the_same(how, folder):
    expected = load_model(MINI)[0].state_dict()
    set_weights(folder, WHOLE[how])
    check_weights(folder)
    found = load_model(folder)[0].state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


CONFIGS = {
    "rope_scaling": (dict(rope_parameters=None, rope_scaling=dict(rope_type="yarn")), "'factor'"),
    "text": (dict(hidden_size="64"), "expected int, got str"),
    "no heads": (dict(num_attention_heads=0), "ZeroDivisionError"),
    "activation": (dict(hidden_act="foo"), "KeyError: 'foo'"),
    "quantized": (dict(quantization_config=dict(quant_method="gptq", bits=4)), "GPTQ"),
    "unknown": (dict(model_type="foo"), "model type `foo`"),
    "a layer less": (dict(num_hidden_layers=5), "must be equal to the number of `layer_types`"),
    "a layer less, without kinds": (dict(num_hidden_layers=5, layer_types=None), "drop the tensor 'model.layers.5."),
    "own code": (dict(model_type="own", auto_map={"AutoConfig": "own.Config"}), "is not run here"),
    "of pictures": (dict(model_type="qwen2_vl"), "take the language model in it"),
}


@pytest.mark.parametrize("how", CONFIGS)
def test_configurations_that_transformers_does_not_take(how, folder, tmp_path):
    values, message = CONFIGS[how]
    set_values(folder / "config.json", **values)
    refused(folder, tmp_path / "out", message)


FILES = {
    "an empty object": ("tokenizer.json", "{}", "the tokenizer of"),
    "a pointer": ("tokenizer.json", POINTER, "tokenizer.json is a pointer of Git LFS"),
    "a list": ("tokenizer_config.json", "[]", "the tokenizer of"),
    "none": ("tokenizer.json", None, "holds no tokenizer"),
    "configuration": ("config.json", POINTER, "config.json is a pointer of Git LFS"),
    "weights": ("model.safetensors", POINTER, "model.safetensors is a pointer of Git LFS"),
}


@pytest.mark.parametrize("how", FILES)
def test_files_that_cannot_be_read(how, folder, tmp_path):
    name, text, message = FILES[how]
    (folder / name).unlink()
    if text:
        (folder / name).write_text(text)
    refused(folder, tmp_path / "out", message)


def test_an_end_that_the_model_does_not_have(folder, tmp_path):
    set_values(folder / "tokenizer_config.json", eos_token="<nope>")
    refused(folder, tmp_path / "out", "eos_token '<nope>' of tokenizer_config.json has id 3000")


def test_a_sentence_with_a_token_that_the_model_does_not_have():
    model, tokenizer = load_model(MINI)
    tokenizer.add_tokens(["<nope>"])
    with pytest.raises(UserError, match="sentence 2 of these holds the token 3000"):
        check_ids(model, prompts(tokenizer, "Translate", ["a b", "a <nope>"]))


TEMPLATES = {
    "nothing of it": ("Hello", "does not repeat the sentence"),
    "small letters": ("{{ messages[0]['content'] | lower }}", "does not repeat the sentence"),
    "escaped": ("{{ messages[0]['content'] | e }}", "does not repeat the sentence 'The <b>"),
    "tools": ("{{ tools | length }}", "cannot be filled in (TypeError"),
    "division": ("{{ 1 / 0 }}", "cannot be filled in (ZeroDivisionError"),
    "a long range": ("{% for i in range(10**9) %}{% endfor %}", "cannot be filled in (OverflowError"),
}


@pytest.mark.parametrize("how", TEMPLATES)
def test_templates_that_translate_or_record_something_else(how, folder, tmp_path):
    template, message = TEMPLATES[how]
    (folder / "chat_template.jinja").write_text(template)
    refused(folder, tmp_path / "out", message)


def test_a_template_that_cuts_the_longest_line(folder, tmp_path):
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'][:200] }}")
    words = ["translate", str(folder), "en-hi", "--out", str(tmp_path / "out")]
    error = CliRunner().invoke(app, words, input="water\n" + "water " * 40 + "\n").exception
    assert "does not repeat the sentence 'water water" in str(error)
    assert not (tmp_path / "out").exists() and not note_of(tmp_path / "out").exists()


def test_a_conversion_depends_on_the_configuration(folder):
    before = _converted_name(folder, "float32", "4.6.0")
    set_values(folder / "config.json", rms_norm_eps=1e-5)
    assert _converted_name(folder, "float32", "4.6.0") != before
    (folder / "tokenizer.json").unlink()
    _converted_name(folder, "float32", "4.6.0")


@pytest.mark.parametrize("name", ["merges.txt", "vocab.txt", "qwen.tiktoken", "spiece.model", "tekken.json"])
def test_a_tokenizer_in_other_files_counts(folder, name):
    "A tokenizer may be spread over files of many names; text for readers decides nothing."
    seen = {model_digest(folder)}
    for text in ("one", "other"):
        (folder / name).write_text(text)
        (folder / "README.md").write_text(text)
        seen.add(model_digest(folder))
    assert len(seen) == 3
    converted = _converted_name(folder, "float32", "4.6.0")
    (folder / "README.md").unlink()
    assert model_digest(folder) in seen and _converted_name(folder, "float32", "4.6.0") == converted


def test_a_tokenizer_is_read_as_transformers_reads_it():
    assert len(folder_tokenizer(MINI)) == 3000
