"Merges from disk to disk: what does not fit is refused, what fails leaves nothing, and what is written loads."

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from conftest import REPO, environment
from models_on_disk import (
    EMBED,
    HEAD,
    INDEX,
    NORM,
    UP,
    W,
    contents,
    edit,
    merge_in,
    put,
    same,
    shard,
    snapshot,
    written,
)
from safetensors.torch import load_file

from mmtmerge.merge import checkpoint_writer, checkpoints, model_card
from mmtmerge.merge.checkpoints import merge_checkpoints
from mmtmerge.core import UserError
from mmtmerge.merge.apply import Recipe, apply_to_model, merge_state_dicts, merged_task_vectors

pytest_plugins = ["models_on_disk"]


# Ways to spoil: functions of the folder that holds base, a and b. Names are those of one folder or of several.
def Put(file, content):
    return lambda models: put(models / file, content)


def Cut(file, n):
    return lambda models: put(models / file, (models / file).read_bytes()[:n])


def Edit(who, change):
    return lambda models: [edit(models / w, change) for w in who.split()]


def Add(who, **tensors):
    return Edit(who, lambda s: s.update(tensors))


def Fill(who, name, x, n=None):
    return Edit(who, lambda s: s[name].view(-1)[:n].fill_(x))


def Cast(who, dtype):
    return Edit(who, lambda s: s.update({UP: s[UP].to(dtype)}))


def Json(who, change, file="config.json"):
    return lambda models: [
        put(models / w / file, json.dumps(change(json.loads((models / w / file).read_text())))) for w in who.split()
    ]


def Config(who, **more):
    return Json(who, lambda c: c | more)


def Vocab(who, change):
    return Json(who, lambda t: t | {"model": change(list(t["model"]["vocab"]))}, "tokenizer.json")


def Both(*spoil):
    return lambda models: [f(models) for f in spoil]


def nothing(models):
    pass


def bpe(v):
    return {"type": "BPE", "vocab": {"never" if i == 2000 else k: i for i, k in enumerate(v)}, "merges": []}


def unigram(v):
    return {"type": "Unigram", "vocab": [[k, 0.0] for k in v]}


def row(name, spoil, *words, **more):
    return pytest.param(spoil, words, more, id=name)


def wrong(*words, **more):
    return row(" ".join(f"{k}={x}" for k, x in more.items() if k != "bug"), nothing, *words, **more)


ALL, AGAIN, FULL = "base a b", "fetch it again", "merge full-precision checkpoints"
BAD = [  # what is broken, how, what the message says of it, arguments of the merge
    row("folder missing", lambda models: shutil.rmtree(models / "a"), "/a is no folder", "give the folder"),
    row(
        "no config",
        lambda models: (models / "a/config.json").unlink(),
        "/a/config.json is missing",
        "no Hugging Face checkpoint",
    ),
    row("config truncated", Cut("a/config.json", 200), "/a/config.json is not whole JSON", AGAIN),
    row("config no object", Put("a/config.json", "[1]"), "/a/config.json"),
    row(
        "adapter",
        lambda models: (models / "a/config.json").rename(models / "a/adapter_config.json"),
        "/a holds an adapter, not a model",
        "merge_and_unload",
    ),
    row("no weights", lambda models: (models / "a" / W).unlink(), "/a holds no .safetensors file"),
    row(
        "pickle only",
        lambda models: (models / "a" / W).rename(models / "a/pytorch_model.bin"),
        "/a holds pytorch_model.bin",
        "can run code",
        "from_pretrained('",
        "save_pretrained('",
    ),
    row("weights truncated", Cut(f"a/{W}", 100_000), f"/a/{W} is truncated", AGAIN),
    row(
        "header garbage",
        Put(f"b/{W}", (50).to_bytes(8, "little") + b"\xff" * 5000),
        f"/b/{W} is truncated or damaged",
        AGAIN,
    ),
    row(
        "LFS pointer",
        Put(f"a/{W}", "version https://git-lfs.github.com/spec/v1\nsize 3159968\n"),
        f"/a/{W} is a pointer of Git LFS",
        "git lfs pull",
    ),
    row(
        "shard missing",
        lambda models: (shard(models / "a", 3), (models / "a/model-00002-of-00003.safetensors").unlink()),
        "/a/model-00002-of-00003.safetensors is missing",
        "fetch the",
    ),
    row(
        "weights twice",
        lambda models: (shard(models / "a", 2), shutil.copy(models / "b" / W, models / "a" / W)),
        f"/a holds {W}, which Transformers reads, and {INDEX}",
        "remove the one",
    ),
    row(
        "index too long",
        lambda models: shard(models / "a", 2, lambda files, at: at.update(nowhere=[*files][0])),
        f"/a/{INDEX}: tensor 'nowhere' is listed, but not in its file",
    ),
    row(
        "tensor twice",
        lambda models: shard(
            models / "a", 2, lambda files, at: [s.update({NORM: torch.ones(96)}) for s in files.values()]
        ),
        f"'{NORM}' is in another file of",
        "remove the file",
    ),
    row("tensor of odd type", Add("a", odd=torch.ones(2, dtype=torch.uint32)), f"/a/{W}: tensor 'odd' is of type U32"),
    row(
        "tensor missing",
        Edit("a", lambda s: s.pop(NORM)),
        f"/a: tensor '{NORM}' is missing in expert a",
        "one architecture",
    ),
    row("tensor extra", Add("b", extra=torch.ones(1)), "'extra' is missing in the base", "one architecture"),
    row(
        "shape",
        Add("a", **{NORM: torch.ones(7)}),
        f"'{NORM}' of expert a is (7,), the base has (96,)",
        "fine-tune from this base",
    ),
    row(
        "vocabulary size",
        Both(Add("a", **{EMBED: torch.ones(3001, 96)}), Config("a", vocab_size=3001)),
        f"'{EMBED}' of expert a is (3001, 96)",
        "with its vocabulary",
    ),
    row(
        "config: epsilon",
        Config("b", rms_norm_eps=0.001),
        "/b/config.json has rms_norm_eps=0.001, the base has 1e-06",
        "fine-tuned from this base",
    ),
    row(
        "config: heads",
        Config("a", num_attention_heads=8),
        "/a/config.json has num_attention_heads=8, the base has 4",
        "fine-tuned from this base",
    ),
    row(
        "config: activation",
        Config("a", hidden_act="relu"),
        "hidden_act='relu', the base has 'silu'",
    ),
    row(
        "expert quantized",
        Config("a", quantization_config={"bits": 4}),
        "/a/config.json has quantization_config={'bits': 4}",
    ),
    row("fp8", Cast("a", torch.float8_e4m3fn), f"'{UP}' of ", "/a is torch.float8_e4m3fn", FULL),
    row("int8", Cast("b", torch.int8), f"'{UP}' of ", "/b is torch.int8, the base has torch.float32", FULL),
    row(
        "integer buffers differ",
        Both(Add("base b", count=torch.ones(2).int()), Add("a", count=torch.zeros(2).int())),
        "'count' is no floating-point tensor and differs in",
        "/a",
    ),
    row("NaN in expert", Fill("a", UP, torch.nan, 1), f"'{UP}' of ", f"/a/{W} holds NaN or Inf", "diverged"),
    row(
        "NaN, by singular values",
        Fill("b", UP, torch.nan, 1),
        f"'{UP}' of ",
        f"/b/{W} holds NaN or Inf",
        method="iso_c",
    ),
    row(
        "NaN, new folders",
        Fill("b", NORM, torch.nan, 1),
        f"'{NORM}' of ",
        f"/b/{W} holds NaN or Inf",
        out="new/deep/merged",
    ),
    row(
        "Inf in base",
        Fill("base", NORM, torch.inf, 1),
        f"'{NORM}' of ",
        f"/base/{W} holds NaN or Inf",
        "damaged",
        method="slerp",
        t=0.5,
    ),
    row(
        "Inf in base that stays",
        Fill("base", EMBED, -torch.inf, 1),
        f"'{EMBED}' of ",
        f"/base/{W} holds NaN or Inf",
        method="task_arithmetic",
    ),
    row(
        "overflow",
        Fill(ALL, UP, 7e4),
        f"'{UP}' does not fit into torch.float16",
        "ask for another dtype, bfloat16 or float32",
        dtype="float16",
    ),
    row(
        "untied head",
        Edit("a", lambda s: s.update({HEAD: s[EMBED] + 1})),
        "/a: config.json ties",
        f"'{HEAD}' is stored with other values",
        "untie it in config.json, or delete it",
    ),
    row("token differs", Vocab("a", bpe), "/a/tokenizer.json: token", "/base/tokenizer.json", "--any-tokenizer"),
    row(
        "token differs, Unigram",
        Both(Vocab(ALL, unigram), Vocab("b", lambda v: unigram(bpe([k for k, _ in v])["vocab"]))),
        "/b/tokenizer.json: token",
        "/base/tokenizer.json",
    ),
    row(
        "token differs, vocab.json",
        lambda models: [
            (
                (models / w / "tokenizer.json").unlink(),
                put(models / w / "vocab.json", json.dumps({"model": 1, "the": 2 + (w == "a")})),
            )
            for w in ALL.split()
        ],
        "/a/vocab.json: token 'the' has id 3",
        "/base/vocab.json 2",
    ),
    row(
        "other merges",
        Json("a", lambda t: t | {"model": t["model"] | {"merges": t["model"]["merges"][::-1]}}, "tokenizer.json"),
        "/a/tokenizer.json: merges is not that of ",
        "/base/tokenizer.json",
        "--any-tokenizer",
    ),
    row(
        "no tokenizer",
        lambda models: put(models / "b/tokenizer.json", "{}"),
        "/b/tokenizer.json",
        "is no tokenizer: fetch it again",
    ),
    row(
        "an option of the model",
        Json("b", lambda t: t | {"model": t["model"] | {"ignore_merges": True}}, "tokenizer.json"),
        "/b/tokenizer.json: ignore_merges of the model is true, in ",
        " null: experts must use",
    ),
    row(
        "other normalizer",
        Json("b", lambda t: t | {"normalizer": {"type": "Lowercase"}}, "tokenizer.json"),
        "/b/tokenizer.json: normalizer is {",
    ),
    row(
        "base not whole",
        Edit(ALL, lambda s: s.pop(NORM)),
        f"Transformers expects a tensor '{NORM}' that the base does not have",
        "config.json is not its own",
    ),
    row(
        "config of another model",
        Config(ALL, num_attention_heads=5),
        "k_proj.bias' is (48,), config.json says (38,)",
        "the base's config.json",
    ),
    row(
        "config of a smaller model",
        Config(ALL, num_hidden_layers=5, layer_types=["full_attention"] * 5),
        "Transformers would drop the tensor 'model.layers.5.",
        "config.json is not its own",
    ),
    row(
        "architecture unknown",
        Config(ALL, model_type="qwen99"),
        "Transformers cannot build this model",
        "qwen99",
        "check the base's config.json",
    ),
    row(
        "config of wrong types",
        Config(ALL, num_attention_heads="four"),
        "cannot build this model",
        "num_attention_heads",
    ),
    row(
        "too many experts",
        lambda models: shutil.copytree(models / "b", models / "c"),
        "slerp merges 1 to 2 experts: got 3",
        method="slerp",
        t=0.5,
        experts=("a", "b", "c"),
    ),
    row(
        "output exists",
        lambda models: (models / "out/merged").mkdir(),
        "/out/merged exists already",
        "name another folder, or remove it",
    ),
    row("output in a file", Put("file", ""), "/file/merged'", "not a folder: name another", out="file/merged"),
    row(
        "disk too small",
        nothing,
        "/out/merged needs 4 MB, the disk has 1 MB left",
        "free some, or write elsewhere",
        free=10**6,
    ),
    wrong("does not fit into torch.float32", "or a smaller lam", lam=1e38, weight=1e6, normalize=False),
    wrong("lam", lam=1e39),
    wrong("unknown merging method 'tie': did you mean 'ties'?", "task_arithmetic", method="tie"),
    wrong("unknown preset 'mergkit': did you mean 'mergekit'?", preset="mergkit"),
    wrong("dare has no meaning under preset 'mergekit'", "'paper'", method="dare", preset="mergekit", p=0.5),
    wrong("sce has no hyper-parameter 'select_topK': did you mean 'select_topk'?", method="sce", select_topK=0.5),
    wrong("ties needs the hyper-parameter 'K'", "merge_func", method="ties"),
    wrong("K must be in (0, 1]: got 1.5", method="ties", K=1.5),
    wrong("ties: K must be a finite number: got nan", method="ties", K=float("nan")),
    wrong("K", "'.5'", method="ties", K=".5"),
    wrong("ties: K takes one number, the same for all experts: got [0.5, 0.7]", method="ties", K=[0.5, 0.7]),
    wrong("K takes one number", "{'a': 0.5}", method="ties", K={"a": 0.5}),
    wrong("dare: p must be in [0, 1): got 1.0", method="dare", p=1.0),
    wrong("select_topk must be in [0, 1]: got 2", method="sce", select_topk=2),
    wrong("3 values", "2 experts", weight=[1.0, 2.0, 3.0]),
    wrong("'c'", weight={"a": 1.0, "c": 1.0}),
    wrong("lam must be a finite number: got nan", lam=float("nan")),
    wrong("embeddings='expert' is neither 'base' nor 'merge'", embeddings="expert"),
    wrong("unknown dtype 'bf16': did you mean 'bfloat16'?", dtype="bf16"),
    wrong("threads must be at least 1: got -1", threads=-1),
    wrong("threads must be at least 1: got 0", threads=0),
    wrong("shard_gb must be above 0: got 0", shard_gb=0),
    wrong("shard_gb", "inf", shard_gb=float("inf")),
    wrong("model_stock merges at least 2 experts: got 1", method="model_stock", experts=("a",)),
    wrong("linear merges at least 1 experts: got 0", experts=()),
    wrong("/a is given twice, as expert a", experts=("a", "b", "a")),
    wrong("/base is given twice, as the base", experts=("a", "base")),
    wrong("/a/merged lies inside the input ", "/a: write it elsewhere", out="a/merged"),
]
said = {}


@pytest.mark.parametrize("spoil, words, more", BAD)
def test_bad_inputs(models, monkeypatch, request, spoil, words, more):
    "Each is refused in words of its own, and nothing is left behind."
    spoil(models)
    if free := more.get("free"):
        monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(free=free))
    before = snapshot(models)
    with pytest.raises(UserError) as e:
        merge_in(models, **{k: x for k, x in more.items() if k != "free"})
    text = str(e.value).replace(str(models), "")
    for word in words:
        assert word in text
    assert said.setdefault(text, request.node.name) == request.node.name and snapshot(models) == before


NANS = [
    ("ties", dict(K=0.5)),
    ("ties", dict(preset="mergekit", weight=1.0, density=0.5)),
    ("sce", {}),
    ("sce", dict(select_topk=0.5)),
    ("sce", dict(preset="fuseai", select_topk=0.5)),
    ("dare", dict(p=0.9)),
    ("task_arithmetic", {}),
    ("breadcrumbs", dict(density=0.5)),
    ("della", dict(density=0.5)),
    ("karcher", {}),
    ("tsv", {}),
]


@pytest.mark.parametrize(
    "method, hyper", NANS, ids=lambda x: x if isinstance(x, str) else " ".join(f"{k}={v}" for k, v in x.items())
)
@pytest.mark.parametrize("who, name", [("a", UP), ("b", EMBED), ("base", UP)])
def test_no_method_hides_a_nan(models, method, hyper, who, name):
    "Not where it would be trimmed, dropped or outvoted, nor in embeddings that stay; nothing is left behind."
    Fill(who, name, torch.nan, 1)(models)
    with pytest.raises(UserError, match=f"'{name}' of .*/{who}/{W} holds NaN or Inf"):
        merge_in(models, method, **hyper)
    assert not list((models / "out").iterdir())


@pytest.mark.parametrize("config", [dict(model_type="qwen99"), dict(num_attention_heads=5)])
def test_architecture_is_asked_about_first(models, monkeypatch, config):
    Config(ALL, **config)(models)
    monkeypatch.setattr(checkpoints, "write_merge", lambda *args: pytest.fail("the merge began"))
    with pytest.raises(UserError, match="config.json"):
        merge_in(models)


def test_failure_does_not_wait_for_hashes(models, monkeypatch):
    stopped = []
    monkeypatch.setattr(model_card, "file_hash", lambda file, stop: stopped.append(stop.wait(60)))
    Fill("a", UP, torch.nan, 1)(models)
    with pytest.raises(UserError, match="NaN"):
        merge_in(models)
    assert stopped and all(stopped)


def test_base_among_experts(models):
    "Only where whole models are averaged may the base be one of them, however its path is typed."
    (models / "link").symlink_to(models / "base")
    base, a, b = (load_file(models / who / W) for who in ("base", "a", "b"))
    assert same(
        written(merge_in(models, "linear", ("a", "link"), preset="mergekit", weight=1.0)),
        merge_state_dicts(base, [a, base], "linear"),
    )
    with pytest.raises(UserError, match="/base is given twice, as the base and as an expert"):
        merge_in(models, "task_arithmetic", ("a", "link"), out="out/other", preset="mergekit", weight=1.0)


def test_names_do_not_depend_on_how_paths_are_typed(models, monkeypatch):
    "DARE's masks belong to names: the same folders in another order, or by other paths, give the same bytes."
    for who in "ab":
        (models / "runs" / who).mkdir(parents=True)
        (models / who).rename(models / "runs" / who / "checkpoint")
    monkeypatch.chdir(models)

    def dare(out, *experts):
        return merge_checkpoints("base", experts, out, "dare", p=0.5, threads=1, progress=False)

    first = dare("out/1", "runs/a/checkpoint", "runs/b/checkpoint")
    assert "| a/checkpoint | checkpoint/model.safetensors |" in (first / "README.md").read_text() and not same(
        written(first), load_file(models / "base" / W)
    )
    for i, experts in enumerate(
        [("runs/b/checkpoint", "runs/a/checkpoint"), (models / "runs/a/checkpoint", "./runs/../runs/b/checkpoint")], 2
    ):
        assert same(written(dare(f"out/{i}", *experts)), written(first))


def test_fall_back_is_told(models, capsys):
    "Equal weights, tokenizers that were not compared and other chat templates are in the card, and printed."
    base = load_file(models / "base" / W)
    Edit("a b", lambda s: s.update({k: base[k] + 0.1 * (t - base[k]) for k, t in s.items()}))(models)
    (models / "a/tokenizer.json").unlink()
    put(models / "b/chat_template.jinja", "{{ messages }}")
    card = (merge_in(models, "sce", progress=True) / "README.md").read_text()
    for what, said in {
        "equal weights": f"{len(base)} of {len(base)} tensors",
        "tokenizer": "tokenizer.json, not compared with a",
        "chat template": "the base's, not that of b",
    }.items():
        assert f"| {what} | {said} |" in card
    assert f"equal weights: {len(base)} of {len(base)} tensors" in capsys.readouterr().err
    assert "equal weights" not in (merge_in(models, "linear", out="out/linear") / "README.md").read_text()


def test_unwritable(models, mount):
    mount("ro,size=64k") if os.getuid() == 0 else (models / "disk").chmod(0o555)  # root writes whatever the mode says
    with pytest.raises(UserError, match="disk is not writable: write elsewhere"):
        merge_in(models, out="disk/merged")
    assert not list((models / "disk").iterdir())


SLOW = """import importlib, sys, time, pathlib
from mmtmerge.merge.checkpoints import merge_checkpoints
models, (module, name), calls = pathlib.Path(sys.argv[1]), sys.argv[2].split("."), []
c = importlib.import_module(f"mmtmerge.merge.{module}")
f = getattr(c, name)
def stop(*args):
    calls.append(1)
    if len(calls) == int(sys.argv[3]): print("here", flush=True); time.sleep(600)
    return f(*args)
setattr(c, name, stop)
merge_checkpoints(
    models / "base", [models / "a", models / "b"], models / "out/merged",
    "linear", shard_gb=.0005, threads=1, progress=False)"""


@pytest.mark.parametrize("where, call", [("checkpoint_writer.apply_to_tensor", 40), ("checkpoints.model_card", 1)])
def test_killed(models, where, call):
    "Killed amid its tensors or at its end, a merge leaves nothing that looks finished; the next writes the same bytes."
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, models, where, str(call)], stdout=subprocess.PIPE, text=True, env=environment(REPO)
    ) as p:
        try:
            assert p.stdout.readline() == "here\n"
            with pytest.raises(UserError, match="out/merged is being written by another merge"):
                merge_in(models)
        finally:
            p.kill()
    assert p.returncode == -signal.SIGKILL
    left = list((models / "out").iterdir())
    assert all(x.name.startswith(".") for x in left) and any(list(x.glob("*.safetensors")) for x in left)
    merge_in(models, shard_gb=0.0005)
    assert [x.name for x in (models / "out").iterdir()] == ["merged"] and contents(models / "out/merged") == contents(
        merge_in(models, out="other/merged", shard_gb=0.0005)
    )


SWEEP = """import json, pathlib, sys, time
from types import SimpleNamespace
import numpy as np
from safetensors.torch import load_file
from mmtmerge.merge.grid_search import Sweep, points, race
models, name, stop, calls = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), []
base, a, b = (load_file(models / who / "model.safetensors") for who in ("base", "a", "b"))
own, log = {k: t.clone() for k, t in base.items()}, open(models / f"{name}.log", "a")
def translate(model, first, last):
    calls.append(1)
    if len(calls) == stop: print("here", flush=True); time.sleep(600)
    x = repr(sum(float(t.double().sum()) for t in own.values()))
    print(first, last, x, file=log, flush=True)
    return {"x-y": [x] * (last - first)}
grid = {"paper": {"task_arithmetic": {"lam": [.1, .2, .3]}, "ties": {"K": [.5, .9], "lam": [.1, .2]}}}
metrics = {"m": (lambda texts, _: np.array([[float(t)] for t in texts]), lambda s: float(s.mean()))}
contestants = points(grid, ["task_arithmetic", "ties"])
sweep = Sweep(SimpleNamespace(named_parameters=own.items), base, dict(a=a, b=b), contestants, translate,
    {"x-y": ["."] * 6}, metrics, [2, 6], kept=models / f"{name}.jsonl")
best = race(sweep.contestants, sweep.score, 2, .5)
fared = [[p.method, p.hyper, p.rungs, p.dropped_after] for p in sweep.contestants]
print(json.dumps(fared), json.dumps([p.hyper for p in best.values()]))"""


def test_killed_sweep(models):
    "Killed while it translates, in both rungs, a sweep goes on where it was: no point is measured twice."
    argv = [sys.executable, "-c", SWEEP, models]

    def whole(name):
        return subprocess.run(
            [*argv, name, "0"], check=True, stdout=subprocess.PIPE, text=True, env=environment(REPO)
        ).stdout

    def lines(name):
        return sorted((models / f"{name}.log").read_text().splitlines())

    race = whole("undisturbed")
    for stop, measured in (4, 3), (6, 8):  # of 11: seven points on the first sentences, four on the rest
        with subprocess.Popen(
            [*argv, "killed", str(stop)], stdout=subprocess.PIPE, text=True, env=environment(REPO)
        ) as p:
            try:
                assert p.stdout.readline() == "here\n"
            finally:
                p.kill()
        assert p.returncode == -signal.SIGKILL and len(lines("killed")) == measured
    assert whole("killed") == race and lines("killed") == lines("undisturbed") and len(set(lines("killed"))) == 11


@pytest.mark.parametrize("attempts", [1, 2])
def test_two_at_once(models, monkeypatch, attempts):
    "Only one merge writes an output; others are refused and do not disturb it."
    apply, begun, go_on, wait, done = (
        checkpoint_writer.apply_to_tensor,
        threading.Event(),
        threading.Event(),
        [True],
        [],
    )

    def slow(*args):
        if wait and wait.pop():
            begun.set()
            assert go_on.wait(600)
        return apply(*args)

    monkeypatch.setattr(checkpoint_writer, "apply_to_tensor", slow)
    first = threading.Thread(target=lambda: done.append(contents(merge_in(models))))
    first.start()
    try:
        assert begun.wait(600)
        for _ in range(attempts):
            with pytest.raises(UserError, match="out/merged is being written by another merge"):
                merge_in(models)
    finally:
        go_on.set()
        first.join()
    assert [x.name for x in (models / "out").iterdir()] == ["merged"] and done == [
        contents(merge_in(models, out="other/merged"))
    ]


def test_output_that_appears_meanwhile(models, monkeypatch):
    def appears(*args):
        put_in.mkdir(exist_ok=True)
        put(put_in / "precious", "mine")
        return card(*args)

    put_in, card = models / "out/merged", checkpoints.model_card
    monkeypatch.setattr(checkpoints, "model_card", appears)
    with pytest.raises(UserError, match="exists"):
        merge_in(models)
    assert contents(put_in) == {"precious": b"mine"} and len(list((models / "out").iterdir())) == 1


@pytest.mark.parametrize(
    "out, other, stays",
    [
        ("m", ".m.abcd_123.partial", False),
        ("m", ".mm.abcd_123.partial", True),
        ("m", ".m.v2.abcd_123.partial", True),
        ("m[1]", ".m[1].abcd_123.partial", False),
    ],
)
def test_leftovers_are_its_own(models, out, other, stays):
    "A merge removes what killed attempts at the same output left, and no one else's work."
    (models / "out" / other).mkdir()
    merge_in(models, out=f"out/{out}")
    assert (models / "out" / other).exists() == stays


@pytest.mark.parametrize(
    "options, shard_gb, threads", [("size=1m", 1.0, 1), ("size=2m", 0.0005, 2), ("size=3100k", 1.0, 1)]
)
def test_disk_full(models, mount, monkeypatch, options, shard_gb, threads):
    "The weights, a later shard, or the tokenizer do not fit: the message says so, and the disk is empty again."
    mount(options)
    monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(free=1 << 40))
    with pytest.raises(UserError, match="the disk of .*/disk/merged is full: 4 MB are needed; nothing was left behind"):
        merge_in(models, out="disk/merged", shard_gb=shard_gb, threads=threads)
    assert not list((models / "disk").iterdir())


@pytest.mark.parametrize("method, hyper", [("linear", {}), ("ties", {"K": 0.3}), ("dare", {"p": 0.5})])
def test_sharded_inputs(models, method, hyper):
    "However the tensors lie in files, the merge is the same, and that of memory."
    base, *experts = (load_file(models / who / W) for who in ("base", "a", "b"))
    whole = written(merge_in(models, method, out="out/whole", **hyper))
    for who, n in (("base", 4), ("a", 3), ("b", 2)):
        shard(models / who, n)
    assert same(written(merge_in(models, method, threads=2, **hyper)), whole) and same(
        whole, merge_state_dicts(base, dict(zip("ab", experts)), method, **hyper)
    )


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_sharded_output_loads(models, dtype):
    "Transformers loads the shards in the type of config.json, the head tied, and computes what the one in memory does."
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    kind, (base, *experts) = (
        getattr(torch, dtype or "float32"),
        (load_file(models / who / W) for who in ("base", "a", "b")),
    )
    out = merge_in(models, dtype=dtype, shard_gb=0.0005)
    index, sizes = json.loads((out / INDEX).read_text()), [f.stat().st_size for f in out.glob("*.safetensors")]
    assert (
        len(sizes) == len(set(index["weight_map"].values())) > 2
        and HEAD not in index["weight_map"]
        and index["metadata"]["total_size"] == sum(t.nbytes for t in written(out).values())
    )
    assert json.loads((out / "config.json").read_text())["dtype"] == str(kind).removeprefix("torch.") and {
        t.dtype for t in written(out).values()
    } == {kind}
    model, info = AutoModelForCausalLM.from_pretrained(out, dtype="auto", output_loading_info=True)
    assert (
        not any(info.values()) and model.dtype == kind and model.lm_head.weight is model.get_input_embeddings().weight
    )
    memory = merge_state_dicts(base, dict(zip("ab", experts)), "linear", dtype=kind)
    other = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(out), dtype=kind).eval()
    assert not other.load_state_dict(memory, strict=False).unexpected_keys and same(
        dict(model.named_parameters()), dict(other.named_parameters())
    )
    ids = AutoTokenizer.from_pretrained(out)("Open the file", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(ids).logits, other(ids).logits)


def test_head_written_twice_and_integer_buffers(models):
    "A tied head that is stored too stays tied; integers that agree are kept."
    plain = written(merge_in(models, out="out/plain"))
    count = dict(count=torch.tensor([1, 2, 3]))
    Edit(ALL, lambda s: s.update({HEAD: s[EMBED].clone()} | count))(models)
    assert same(written(merge_in(models)), plain | count)


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_informed_merges(models, method):
    "From disk as in memory; the card holds the hash of what informed them, not its numbers."
    base, a, b = (load_file(models / who / W) for who in ("base", "a", "b"))
    g = torch.Generator().manual_seed(0)

    def inform(s):
        return (
            {k: torch.rand(t.shape, generator=g) for k, t in s.items()}
            if method == "fisher"
            else {UP: (lambda x: x.T @ x)(torch.randn(200, s[UP].shape[1], generator=g))}
        )

    hyper = {"information" if method == "fisher" else "grams": dict(a=inform(a), b=inform(b))}
    out = merge_in(models, method, **hyper)
    card = (out / "README.md").read_text()
    assert (
        same(written(out), merge_state_dicts(base, dict(a=a, b=b), method, **hyper))
        and f"| {2 * len(base) if method == 'fisher' else 2} tensors, XXH3-128 " in card
        and "tensor(" not in card
    )


def test_renamed_tensors(tmp_path):
    "Transformers stores the experts of a mixture one by one and loads them as one tensor: such checkpoints merge."
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "mixtral",
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=50,
        num_local_experts=2,
    )
    for seed, who in enumerate(["base", "a", "b"]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / who)
    out = merge_in(tmp_path)
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()) and written(out).keys() != dict(model.named_parameters()).keys()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_live_swaps_equal_fresh_loads(models, dtype):
    "A resident model has the logits of each merge's checkpoint in turn, and at last the base's again."
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = getattr(torch, dtype)
    Edit(ALL, lambda s: s.update({k: t.to(kind) for k, t in s.items()}))(models)
    Config(ALL, dtype=dtype)(models)
    base, a, b = (load_file(models / who / W) for who in ("base", "a", "b"))
    ids = AutoTokenizer.from_pretrained(models / "base")("Open the file", return_tensors="pt").input_ids

    def load(folder):
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()

    def logits(model):
        with torch.no_grad():
            return model(ids).logits

    resident = load(models / "base")
    parameters = dict(resident.named_parameters())
    for i, (method, hyper, lam) in enumerate(
        [("ties", dict(K=0.5), 0.7), ("dare", dict(p=0.5), 0.3), ("sce", dict(select_topk=0.5), 1.0)]
    ):
        recipe = Recipe(method, hyper, lam)
        apply_to_model(
            parameters, base, dict(merged_task_vectors(recipe, recipe.task_vectors(base, dict(a=a, b=b)))), lam
        )
        fresh = load(merge_in(models, method, out=f"out/{i}", lam=lam, **hyper))
        assert (
            fresh.dtype == kind
            and torch.equal(logits(resident), logits(fresh))
            and not torch.equal(logits(fresh), logits(load(models / "base")))
        )
    apply_to_model(parameters, base, {}, 1.0)
    assert torch.equal(logits(resident), logits(load(models / "base")))
