"`mmtmerge probe`: a recording from the command line, and what it refuses."
import pytest
import transformers as tf
from conftest import REPO, mmtmerge

from mmtmerge.probe.recording import load_recording

MINI = REPO / "mmtmerge/data/miniature"


def probe(model, direction, out, *options):
    named = ["--model", str(model), "--direction", direction, "--out", str(out)]
    return mmtmerge(REPO, "probe", *named, *options)


def test_probe(tmp_path):
    out = tmp_path / "mine"
    words = ["--lines", "10", "--min-words", "2", "--max-words", "0"]
    done = probe(MINI, "en-hi", out, *words, "--dtype", "bfloat16", "--folds", "4", "--batch-size", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert sorted(p.name for p in out.iterdir()) == ["about.json", "counts.safetensors", "features-00000.safetensors"]
    assert len(list(tmp_path.iterdir())) == 1

    r, config = load_recording(out), tf.AutoConfig.from_pretrained(MINI)
    assert r.counts.shape == (2, 4, config.num_hidden_layers, config.intermediate_size)
    assert (r.counts <= r.tokens[:, :, None, None]).all()
    assert r.counts.any(axis=(1, 2, 3)).all()
    assert r.features.shape == (2, config.num_hidden_layers + 2, 10, config.hidden_size)
    assert len(r.about["ids"]) == 10
    assert (r.about["direction"], r.about["dtype"], r.about["words"]) == ("en-hi", "bfloat16", [2, 0])

    again = probe(MINI, "en-hi", out)
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.fixture
def gpt2(tmp_path):
    "A small model without gated MLPs, with the miniature's tokenizer."
    tokenizer = tf.AutoTokenizer.from_pretrained(MINI)
    end = tokenizer.eos_token_id
    sizes = dict(n_embd=16, n_layer=1, n_head=2, vocab_size=len(tokenizer))
    tf.GPT2LMHeadModel(tf.GPT2Config(**sizes, bos_token_id=end, eos_token_id=end)).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")


@pytest.mark.parametrize("model, direction, message", [
    (MINI, "en-xx", "en-xx"),
    ("nothing", "en-hi", "no config.json"),
    ("gpt2", "en-hi", "'gpt2' has no gated MLP"),
])
def test_probe_refuses(tmp_path, gpt2, model, direction, message):
    (tmp_path / "nothing").mkdir()
    done = probe(tmp_path / model, direction, tmp_path / "out", "--lines", "5")
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")     # after the bar of loading, where a model was loaded
    assert "Traceback" not in done.stderr
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]
