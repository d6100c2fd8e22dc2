"What lies beside the weights, or in their place: what goes with a merge, what is told, what cannot be read."
import builtins
import json

import pytest
from models_on_disk import MINI, UP, W, edit, merge_in, put
from safetensors.torch import load_file

from mmtmerge.core import UserError
from mmtmerge.merge.checkpoint_checks import check_compatible
from mmtmerge.checkpoint_hints import tensor_hint
from mmtmerge.merge.checkpoint_reader import Checkpoint
from mmtmerge.merge.checkpoint_writer import copy_other_files, left_behind, not_taken
from mmtmerge.merge.model_card import table_rows

pytest_plugins = ["models_on_disk"]
CONFIG = (MINI / "config.json").read_text()
JINJA = (MINI / "chat_template.jinja").read_text()


def make(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        put(folder / name, content)
    return folder


def changed(file="config.json", **more):
    return json.dumps(json.loads((MINI / file).read_text()) | more)


OWN = {     # an expert's file; what is told of it behind its name
    "generation_config.json": (changed("generation_config.json", eos_token_id=[1, 2]), " (eos_token_id)"),
    "special_tokens_map.json": ('{"eos_token": "x"}', " (eos_token)"),
    "tokenizer_config.json": (changed("tokenizer_config.json", eos_token={"content": "x"}), " (eos_token)"),
    "preprocessor_config.json": ('{"size": 9}', " (size)"),
    "config.json": (changed(eos_token_id=9, dtype="bfloat16"), " (eos_token_id)"),
    "chat_template.json": ('{"chat_template": "x"}', ""),
    "additional_chat_templates/rag.jinja": ("x", ""),
    "LICENSE": ("research only", ""),
    "modeling_own.py": ("", ""),
    "custom_generate/generate.py": ("", ""),
}


@pytest.mark.parametrize("name", OWN)
def test_an_experts_own_file_is_told(models, name):
    content, told = OWN[name]
    make(models / "a", {name: content})
    base, experts = Checkpoint(models / "base"), {who: Checkpoint(models / who) for who in "ab"}
    assert not_taken(base, experts) == {"not taken": f"of a: {name}{told}"}


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ({"generation_config.json": '{"a": 1}'}, {"generation_config.json": '{"a":1, "transformers_version": "5"}'}),
        ({"LICENSE": "free"}, {"LICENSE": "free"}),
        ({"LICENSE": "free"}, {}),
        ({}, {"chat_template.json": json.dumps({"chat_template": JINJA})}),
        ({}, {"chat_template.jinja": JINJA + "\n"}),
        ({}, {"config.json": changed(dtype="float16", use_cache=False, initializer_range_of_another=1)}),
        ({"special_tokens_map.json": '{"a": "x"}'}, {"special_tokens_map.json": '{"a": {"content": "x"}}'}),
    ],
)
def test_what_is_the_same_is_not_told(models, ours, theirs):
    make(models / "base", ours)
    make(models / "a", theirs)
    assert not_taken(Checkpoint(models / "base"), {"a": Checkpoint(models / "a")}) == {}


def test_the_card_tells_of_experts_files(models):
    make(models / "b", {"LICENSE": "research only"})
    make(models / "a", {"generation_config.json": changed("generation_config.json", eos_token_id=9)})
    card = (merge_in(models) / "README.md").read_text()
    assert "| not taken | of a: generation_config.json (eos_token_id); of b: LICENSE |" in card


FOLDERS = {
    "LICENSES/MIT.txt": "free",
    "1_Pooling/config.json": "{}",
    "chat_templates/x.jinja": "x",
    "additional_chat_templates/x.jinja": "x",
    "additional_chat_templates/sub/y.jinja": "y",
    "custom/modeling_own.py": "import own",
    "custom_generate/generate.py": "",
    "custom_generate/requirements.txt": "own",
    ".cache/own.py": "",
    ".git/config": "",
}


@pytest.mark.parametrize("remote_code", [False, True])
def test_folders_beside_the_weights(models, remote_code):
    make(models / "base", FOLDERS | {"config.json": changed(auto_map={"AutoModel": "custom/modeling_own.Own"})})
    base, out = Checkpoint(models / "base"), models / "out"
    notes = copy_other_files(base, out, remote_code=remote_code)
    assert notes["not copied"] == "1_Pooling/, additional_chat_templates/sub/y.jinja, chat_templates/"
    code = [name for name in FOLDERS if name.startswith("custom")]
    assert all((out / name).exists() == remote_code for name in code)
    assert all(name in notes.get("remote code", "") for name in code) or remote_code
    copied = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} & FOLDERS.keys()
    assert copied - {*code} == {"LICENSES/MIT.txt", "additional_chat_templates/x.jinja"}
    assert ("remote code" in left_behind(base.folder, remote_code)) != remote_code


def unfinished(*names):
    return {name: "" for name in names}


RUN = {f"checkpoint-{n}/{name}": "{}" for n in (90, 100) for name in ("config.json", W)}
SEEN = {     # files without a config.json or with one; what is said
    "m-Q4_K_M.gguf": "m-Q4_K_M.gguf, mostly quantized weights: fetch the original",
    "tf_model.h5": "from_tf=True",
    "flax_model.msgpack": "from_flax=True",
    "model.onnx": "model.onnx, which another program reads: fetch the original",
    "onnx/model.onnx": "onnx/model.onnx, which another program reads",
    "model.npz": "which another program reads",
    "global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt": "zero_to_fp32.py",
    "zero_to_fp32.py": "zero_to_fp32.py",
    "pytorch_model_fsdp_0/__0_0.distcp": "e/pytorch_model_fsdp_0 ",
    "__0_0.distcp": "accelerate merge-weights",
    ".cache/huggingface/download/x.incomplete": "a download that did not end: run it again",
    "model.safetensors.part": "a download that did not end: run it again",
    "consolidated.safetensors": "fetch Hugging Face's",
    "consolidated.00.pth": "fetch Hugging Face's",
    "snapshots/abc/model.safetensors snapshots/abc/config.json": "/e/snapshots/abc: give that folder",
    "models--a--b/snapshots/abc/model.safetensors models--a--b/snapshots/abc/config.json": "abc: give that folder",
    "0_Transformer/model.safetensors 0_Transformer/config.json modules.json": "e/0_Transformer: give that folder",
    "model_index.json unet/config.json unet/m.safetensors": "a pipeline of diffusers",
    "model.bin shared_vocabulary.json": "a model of CTranslate2",
    "optimizer.pt checkpoint-9/config.json checkpoint-9/model.safetensors": "e/checkpoint-9: give that folder",
    "onnx/model.onnx pytorch_model.bin tf_model.h5": "holds pytorch_model.bin and no safetensors. Pickle files",
}


@pytest.mark.parametrize("names", SEEN)
@pytest.mark.parametrize("config", [{}, {"config.json": CONFIG}], ids=["bare", "configured"])
def test_what_lies_in_place_of_weights(tmp_path, names, config):
    make(tmp_path / "e", dict.fromkeys(names.split(), "") | config)
    with pytest.raises(UserError) as refusal:
        Checkpoint(tmp_path / "e")
    assert str(refusal.value).startswith(f"{tmp_path}/e ") and SEEN[names] in str(refusal.value)


def test_checkpoints_of_a_run_are_named_in_order(tmp_path):
    make(tmp_path / "e", RUN)
    with pytest.raises(UserError, match="holds .*e/checkpoint-90, .*e/checkpoint-100: give one of them"):
        Checkpoint(tmp_path / "e")


@pytest.mark.parametrize("files", [{}, {"optimizer.pt": "", "training_args.bin": ""}])
def test_nothing_that_is_known(tmp_path, files):
    with pytest.raises(UserError, match="holds no .safetensors file: a checkpoint holds config.json and"):
        Checkpoint(make(tmp_path / "e", files | {"config.json": CONFIG}))


def test_a_whole_model_beside_others_is_read(models):
    "Whatever else lies there, Transformers reads model.safetensors."
    others = dict.fromkeys(["consolidated.safetensors", "m.gguf", "onnx/model.onnx", "pytorch_model.bin", "x.part"], "")
    assert set(Checkpoint(make(models / "a", others))) == set(Checkpoint(models / "b"))


Q = "model.layers.0.self_attn.q_proj"
QUANTIZED, ADAPTER = "is quantized, as its tensor", "holds an adapter, as its tensor"
NAMES = {
    f"{Q}.weight_scale": QUANTIZED,
    f"{Q}.weight_scale_inv": QUANTIZED,
    f"{Q}.weight.quant_state.bitsandbytes__nf4": QUANTIZED,
    f"{Q}.weight.nested_absmax": QUANTIZED,
    f"{Q}.W_q": QUANTIZED,
    f"{Q}.codes": QUANTIZED,
    f"{Q}.scales": QUANTIZED,
    "model.layers.0.mlp.experts.gate_up_proj_blocks": QUANTIZED,
    f"{Q}.weight_blocks": QUANTIZED,
    "model.embed_tokens.modules_to_save.default.weight": ADAPTER,
    f"{Q}.hada_w1_a": ADAPTER,
    f"{Q}.lokr_w2": ADAPTER,
    f"{Q}.oft_R.default.weight": ADAPTER,
    f"base_model.model.{Q}.ia3_l": ADAPTER,
    f"{Q}.parametrizations.weight.original0": "holds a parametrized weight",
    "v_head.summary.weight": "holds a value head",
    "score.weight": "is a classifier",
    "classifier.dense.weight": "is a classifier",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_tells_what_a_model_is(models, name):
    edit(models / "a", lambda state: state.update({name: state[UP][:2].clone()}))
    for base, expert in (("base", "a"), ("a", "base")):
        with pytest.raises(UserError) as refusal:
            check_compatible(Checkpoint(models / base), {expert: Checkpoint(models / expert)})
        assert f"/a {NAMES[name]}" in str(refusal.value)


def test_an_architectures_own_names_tell_nothing():
    assert not any(tensor_hint(name) for name in load_file(MINI / W))
    assert not any(tensor_hint(name, alone=False) for name in load_file(MINI / W))
    assert tensor_hint("quantizer.codebooks") is tensor_hint("score.weight") is None


def test_quantized_inside(models):
    put(models / "a/config.json", changed(text_config={"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(UserError, match="a is quantized: .*quant_method"):
        check_compatible(Checkpoint(models / "base"), {"a": Checkpoint(models / "a")})


@pytest.mark.parametrize("name", [W, "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_files_that_must_not_be_read(models, monkeypatch, name):
    make(models / "a", {"chat_template.jinja": "x", "tokenizer_config.json": "{}"})
    opened = builtins.open

    def refusing(file, *args, **more):
        if str(file) == str(models / "a" / name):
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *args, **more)

    monkeypatch.setattr(builtins, "open", refusing)
    with pytest.raises(UserError, match=f"a/{name} cannot be read .Permission denied.: change its permissions"):
        check_compatible(Checkpoint(models / "base"), {"a": Checkpoint(models / "a")})


def test_a_value_keeps_to_its_cell():
    assert table_rows([("a\nb", "c|d", 1)]) == "| a b | c\\|d | 1 |"


def test_names_in_the_card(models):
    (models / "a").rename(models / "a|b\nc")
    card = (merge_in(models, experts=("a|b\nc", "b")) / "README.md").read_text()
    assert f"| a\\|b c | a\\|b c/{W} |" in card


@pytest.mark.parametrize("who", ["base", "a"])
@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "LICENSE"])
def test_links_to_nothing_are_no_missing_files(models, who, name):
    "The cache of the hub holds links; where a download did not end, they lead nowhere."
    file = models / who / name
    file.unlink(missing_ok=True)
    file.symlink_to(models / "gone")
    with pytest.raises(UserError, match="is a link to a file that is not there"):
        check_compatible(Checkpoint(models / "base"), {"a": Checkpoint(models / "a")})
