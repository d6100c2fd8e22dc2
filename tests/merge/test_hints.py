"What a user is told who gives a name from elsewhere: of a hyper-parameter, of a model on the hub."
from pathlib import Path

import pytest
from models_on_disk import put
from typer.testing import CliRunner

from mmtmerge import cli
from mmtmerge.core import UserError, hub_hint
from mmtmerge.merge import apply  # noqa: F401
from mmtmerge.merge.checkpoint_reader import check_folder
from mmtmerge.merge.mergekit_adapters import adapted
from mmtmerge.merge.mergekit_file import read_yaml
from mmtmerge.merge.method_list import hyper_lines, method_list
from mmtmerge.merge.registry import FROM_DATA, METHODS, check_names, find_method
from mmtmerge.models import load_model
from mmtmerge.translate_files import check_folder as check_translator

HUB = "Qwen/Qwen2.5-0.5B"
FETCH = "hf download Qwen/Qwen2.5-0.5B --local-dir Qwen2.5-0.5B"


@pytest.mark.parametrize(
    "method, preset, given, told",
    [
        ("ties", "paper", "density", "here it is called K"),
        ("ties", "paper", "density", "preset 'mergekit' has density"),
        ("ties", "mergekit", "K", "here it is called density"),
        ("dare", "paper", "density", "here it is called p (the share of the entries that is dropped, 1 - density)"),
        ("dare_ties", "mergekit", "p", "here it is called density (the share of the entries that is kept, 1 - p)"),
    ],
)
def test_the_same_share_by_another_name(method, preset, given, told):
    with pytest.raises(UserError) as refused:
        check_names(find_method(method, preset), {given: .5})
    assert told in str(refused.value)


@pytest.mark.parametrize("name, method", [("grams", "regmean"), ("information", "fisher"), ("score", "greedy_soup")])
def test_what_is_made_from_data(name, method):
    with pytest.raises(UserError, match=f"needs the hyper-parameter '{name}'.*given in Python"):
        check_names(find_method(method), {})


@pytest.mark.parametrize("asked", [lambda name: check_folder(Path(name)), load_model, check_translator])
def test_a_name_on_the_hub(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        asked(HUB)
    assert FETCH in str(refused.value)


def test_a_folder_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    assert hub_hint("models/base") == hub_hint("/models/base") == hub_hint("base") == hub_hint("a/b/c") == ""


def test_every_method_is_listed():
    text = method_list()
    for name, presets in METHODS.items():
        for m in presets.values():
            assert f"\n{name}" in text
            assert "\n".join(hyper_lines(m, {"ties": {"K": [.4, .9]}})) in text or name in ("ties", "dare", "sce")
    assert "--K            share of the entries that is kept; usual 0.4 to 0.9" in text
    assert text.count("in Python only") == len(FROM_DATA)


def test_help_of_merge_ends_with_the_methods():
    shown = CliRunner().invoke(cli.app, ["merge", "--help"])
    assert shown.exit_code == 0
    assert "--shard-gb" in shown.output and method_list() in shown.output


def test_a_merge_key_at_the_top_of_a_file(tmp_path):
    "What it brings counts, and what only it uses is no unknown key."
    put(tmp_path / "a.yml", "common: &c {dtype: bfloat16}\n<<: *c\nmerge_method: linear\nmodels: []\n")
    assert read_yaml(tmp_path / "a.yml") == dict(dtype="bfloat16", merge_method="linear", models=[])
    text = "p: &p {weight: 1}\nextra: &d {dtype: bfloat16, parameters: *p}\n<<: *d\nparameters: *p\nmodels: []\n"
    put(tmp_path / "b.yml", text)
    assert read_yaml(tmp_path / "b.yml")["dtype"] == "bfloat16"


def test_a_plus_in_the_name_of_a_folder(tmp_path):
    (tmp_path / "c++/base").mkdir(parents=True)
    assert adapted(f"{tmp_path}/c++/base+lora") == (f"{tmp_path}/c++/base", "lora")
    assert adapted("base+lora") == ("base", "lora")
