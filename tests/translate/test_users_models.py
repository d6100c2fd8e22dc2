"Models, folders and files of users: what would be translated wrongly without a sign, and what is refused by name."

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers as T
from conftest import REPO
from safetensors.torch import load_file, save_file
from test_engines import TALKATIVE, stand_in
from typer.testing import CliRunner

from mmtmerge.cli import app
from mmtmerge.core import UserError
from mmtmerge.engines import open_engine
from mmtmerge.models import check_checkpoint, check_weights, folder_tokenizer, load_model
from mmtmerge.prompts import prompts
from mmtmerge.translate import ask, generate, stop_tokens

MINI = REPO / "mmtmerge/data/miniature"
TOKENS = dict(vocab_size=100, bos_token_id=1, eos_token_id=2, pad_token_id=0)
SIZES = TOKENS | dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=128
)
GROUPED = SIZES | dict(num_key_value_heads=2)
GPTJ = dict(vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=128, rotary_dim=4)


@pytest.fixture
def folder(tmp_path):
    "A copy of the miniature."
    return shutil.copytree(MINI, tmp_path / "checkpoint")


def set_values(file, **values):
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | values))


def set_weights(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def call(*words, text="पानी\n"):
    "The command in this process: its standard output; an error is raised as it is."
    done = CliRunner().invoke(app, ["translate", *map(str, words), "--quiet"], input=text)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def probe(folder, out):
    "The error that `mmtmerge probe` ends with."
    words = ["probe", "--model", folder, "--direction", "en-hi", "--out", out, "--lines", 4]
    return CliRunner().invoke(app, [str(word) for word in words]).exception


def refused(folder, message):
    "Both commands name the folder and what to do."
    with pytest.raises(UserError) as error:
        call(folder, "hi-en")
    for said in (error.value, probe(folder, folder.parent / "recording")):
        assert isinstance(said, UserError), said
        assert message in str(said) and str(folder) in str(said)


# Architectures


def random_model(kind, values, much=0.15):
    "A model of random weights that differ enough from one another."
    torch.manual_seed(0)
    model = T.AutoModelForCausalLM.from_config(getattr(T, f"{kind}Config")(**values)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape) * (2 * much if weight.dim() < 2 else much))
    return model


def by_themselves(model, asked, limit):
    "What Transformers' own generate writes, one prompt at a time."
    written = []
    for ids in asked:
        options = dict(do_sample=False, max_new_tokens=limit, eos_token_id=2, pad_token_id=0)
        out = model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()
        written.append(out[: out.index(2)] if 2 in out else out)
    return written


def some_prompts():
    "Prompts of an instruction that all share, and rests of very different lengths."
    seed = torch.Generator().manual_seed(3)
    return [[1, 7, 8] + torch.randint(3, 100, (n,), generator=seed).tolist() for n in (5, 9, 14, 14, 23)]


def same(model):
    asked = some_prompts()
    written = generate(model, asked, [12] * 5, [2], SimpleNamespace(decode_batch=3))
    assert written == by_themselves(model, asked, 12)


@pytest.mark.parametrize("kind, values", [("Phi", SIZES), ("GPTJ", GPTJ), ("CodeGen", GPTJ), ("Llama", GROUPED)])
def test_a_bias_of_the_head_counts(kind, values):
    same(random_model(kind, values))


WINDOWS = {
    "Gemma2": GROUPED | dict(head_dim=8, sliding_window=6),
    "Gemma3Text": GROUPED | dict(head_dim=8, sliding_window=6),
    "Mistral": GROUPED | dict(sliding_window=6),
    "Starcoder2": GROUPED | dict(sliding_window=6),
    "Mpt": dict(vocab_size=100, d_model=32, n_layers=2, n_heads=4, max_seq_len=128),
}


@pytest.mark.parametrize("much", [0.15, 0.03])
@pytest.mark.parametrize("kind", WINDOWS)
def test_a_long_line_takes_no_instruction_from_the_short_ones(kind, much):
    same(random_model(kind, WINDOWS[kind], much))


STATES = {
    "Mamba": dict(vocab_size=100, hidden_size=32, num_hidden_layers=2),
    "Lfm2": GROUPED | dict(layer_types=["conv", "full_attention"]),
    "FalconH1": GROUPED | dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=16),
}


@pytest.mark.parametrize("kind", STATES)
def test_layers_with_a_state_are_refused_before_the_model_is_read(kind, tmp_path, unread):
    model = random_model(kind, STATES[kind] | dict(vocab_size=3000))
    model.save_pretrained(tmp_path / "model")
    T.AutoTokenizer.from_pretrained(MINI).save_pretrained(tmp_path / "model")
    message = f"some layers of {model.config.model_type} keep a state.*take vllm"
    with pytest.raises(UserError, match=message):
        call(tmp_path / "model", "hi-en")
    with pytest.raises(UserError, match=message):
        generate(model, some_prompts(), [3] * 5, [2], SimpleNamespace(decode_batch=3))


def test_an_encoder_decoder_is_refused(folder):
    set_values(folder / "config.json", model_type="mbart", architectures=["MBartForConditionalGeneration"])
    (folder / "chat_template.jinja").unlink()
    refused(folder, "is an encoder-decoder model (mbart)")
    with pytest.raises(UserError, match="is an encoder-decoder model"):
        load_model(folder)


# Ends of an answer


def ends_of(folder):
    return folder_tokenizer(folder).convert_ids_to_tokens(stop_tokens(folder_tokenizer(folder)))


def test_ends_that_the_folder_states(folder):
    "The tokenizer's own, those of generation_config.json or else of config.json; words are none."
    plain = ends_of(MINI)
    assert stop_tokens(folder_tokenizer(MINI)).count(2) == 1
    assert ends_of(folder) == plain
    set_values(folder / "generation_config.json", eos_token_id=[2, 0, 500, 5000])
    more = sorted([*plain, "<|endoftext|>"])
    assert sorted(ends_of(folder)) == more
    (folder / "generation_config.json").unlink()
    set_values(folder / "config.json", eos_token_id=[2, 0])
    assert sorted(ends_of(folder)) == more
    for broken in ("{", "[]", '{"eos_token_id": "x"}'):
        (folder / "generation_config.json").write_text(broken)
        assert sorted(ends_of(folder)) == more


def test_the_stated_end_reaches_every_engine(folder, tmp_path, monkeypatch):
    "A tokenizer names one end, as Llama 3's base; its instructed model writes another."
    sources = ["पानी", "घर", "वह घर गया"]
    p = SimpleNamespace(decode_batch=4, new_token_ratio=3, new_token_extra=8)
    expected = open_engine("transformers", MINI, "float32").translate("Translate", sources, p)
    set_values(folder / "tokenizer_config.json", eos_token="<|endoftext|>")
    set_values(folder / "generation_config.json", eos_token_id=[2, 0])
    found = open_engine("transformers", folder, "float32").translate("Translate", sources, p)
    assert found.texts == expected.texts and found.new_tokens == expected.new_tokens
    stand_in(tmp_path, monkeypatch, TALKATIVE)
    tokenizer = open_engine("vllm", folder, "float32").tokenizer
    assert {0, 2} < {*ask(tokenizer, "Translate", sources, p)[2]}
    with monkeypatch.context() as context:
        context.setattr("mmtmerge.models.stated_ends", lambda *args: [])
        alone = open_engine("transformers", folder, "float32").translate("Translate", sources, p)
    assert alone.new_tokens != expected.new_tokens


def test_the_stated_end_reaches_ctranslate2(folder, tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2")
    monkeypatch.setenv("MMTMERGE_CACHE", str(tmp_path / "cache"))
    p = SimpleNamespace(decode_batch=4, new_token_ratio=3, new_token_extra=8)
    expected = open_engine("transformers", MINI, "float32").translate("Translate", ["पानी", "घर"], p)
    set_values(folder / "tokenizer_config.json", eos_token="<|endoftext|>")
    set_values(folder / "generation_config.json", eos_token_id=[2, 0])
    found = open_engine("ctranslate2", folder, "float32").translate("Translate", ["पानी", "घर"], p)
    assert found.texts == expected.texts


# Templates that think


def test_a_template_is_asked_not_to_think(folder):
    template = folder / "chat_template.jinja"
    plain = prompts(folder_tokenizer(folder), "Translate", ["पानी"])
    thinks = "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    template.write_text(template.read_text() + thinks)
    assert prompts(folder_tokenizer(folder), "Translate", ["पानी"]) == plain
    assert call(folder, "hi-en") == call(MINI, "hi-en")


def test_a_template_that_thinks_in_any_case_is_refused(folder, unread):
    template = folder / "chat_template.jinja"
    whole = template.read_text()
    template.write_text(whole + "<think>\n")
    refused(folder, "begins every answer with a thought, <think>")
    template.write_text(whole + "<think>\n\n</think>\n\n")
    assert prompts(folder_tokenizer(folder), "Translate", ["<think>"])


# Numbers that are not finite


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.2.mlp.up_proj.weight"])
def test_damaged_weights_are_no_blank_translations(name, folder, tmp_path):
    set_weights(folder, lambda t: t | {name: t[name] * float("nan")})
    out = tmp_path / "out"
    with pytest.raises(UserError, match=f"{folder} computes numbers that are not finite, in float32: its weights"):
        call(folder, "hi-en", "--out", out)
    assert list(tmp_path.iterdir()) == [folder]


def test_numbers_beyond_float16(folder):
    set_weights(folder, lambda t: {k: v * 3000 if "down_proj" in k or "up_proj" in k else v for k, v in t.items()})
    call(folder, "hi-en")
    call(folder, "hi-en", "--dtype", "bfloat16")
    with pytest.raises(UserError, match="in float16: float16 holds none beyond 65504: take bfloat16 or float32"):
        call(folder, "hi-en", "--dtype", "float16")


# Folders that hold something else


def only(folder, name, data=b"x"):
    "Put a file in the place of the weights."
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(data)
    return folder


def test_an_adapter_instead_of_a_model_or_beside_it(folder, unread):
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "holds an adapter, adapter_config.json: merge it into its base")
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    refused(folder, "holds an adapter, adapter_config.json: merge it into its base")


def test_weights_of_an_adapter_in_a_model(folder, unread):
    set_weights(folder, lambda t: t | {"model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(2, 96)})
    refused(folder, "holds an adapter, as its tensor 'model.layers.0.self_attn.q_proj.lora_A.default.weight' shows")


def test_quantized_weights_that_the_configuration_hides(folder, unread):
    set_weights(folder, lambda t: t | {"model.layers.0.mlp.up_proj.qweight": torch.ones(2, 2, dtype=torch.int32)})
    refused(folder, "names its quantization_config")


@pytest.mark.parametrize("name, message", [
    ("pytorch_model.bin", "Pickle files can run code and are not read"),
    ("model.Q4.gguf", "fetch the original that it was made from"),
])  # fmt: skip
def test_other_forms_of_weights(name, message, folder, unread):
    refused(only(folder, name), message)


@pytest.mark.parametrize("where", ["checkpoint-10", "snapshots/0123"])
def test_a_folder_around_checkpoints(where, tmp_path, unread):
    shutil.copytree(MINI, tmp_path / "run" / where)
    refused(tmp_path / "run", f"is no checkpoint, but holds {tmp_path / 'run' / where}: give that folder")


def test_an_artefact_is_probed_expanded_only(folder):
    "Its trunk can be loaded, as Routed does, and is no model of a direction."
    (folder / "parts.json").write_text("{}")
    error = probe(folder, folder.parent / "out")
    assert isinstance(error, UserError) and f"mmtmerge expand {folder} DIRECTION OUT" in str(error)
    with pytest.raises(UserError, match="is an artefact of mmtmerge repair"):
        check_checkpoint(folder)
    check_weights(folder)
    load_model(folder)


# Lines, and where they go


def test_lines_with_nothing_to_see_stay_empty():
    lines = "\u200b\nपानी\n\u3164 \n\u2800\n"
    assert call(MINI, "hi-en", text=lines) == call(MINI, "hi-en", text="\nपानी\n\n\n")


@pytest.mark.parametrize("data, message", [
    ("hello\nhome\n".encode("utf-16-le"), "line 1 holds a NUL character.*UTF-16"),
    ("पानी\nपा\0नी\n".encode(), "line 2 holds a NUL character"),
    ("पानी\rघर\r".encode(), "line 1 holds a carriage return.*tr"),
    ("पानी\r\n\r\nघर\rपानी\r\n".encode(), "line 3 holds a carriage return"),
])  # fmt: skip
def test_what_no_line_of_text_holds(data, message, unread):
    with pytest.raises(UserError, match=f"standard input, {message}"):
        call(MINI, "hi-en", text=data)


def test_a_dash_is_standard_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(MINI, "hi-en", "--out", "-") == call(MINI, "hi-en")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out, message", [
    ("/dev/null", "/dev/null is no file that can be continued.*: write `> /dev/null`, not --out"),
    ("/tmp", "/tmp is a folder: name a file in it"),
])  # fmt: skip
def test_what_is_no_file_to_continue(out, message, unread):
    with pytest.raises(UserError, match=message):
        call(MINI, "hi-en", "--out", out)
