"The artefact of repair: what is written, what it loads as, what a switch computes, and what is refused."

import json
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch
from artefacts_on_disk import DIRECTIONS, INSTRUCTIONS, MINI, W, contents, repair_in, same, tensors_of, write_model
from conftest import REPO, environment
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmtmerge import cli
from mmtmerge.core import UserError
from mmtmerge.merge.apply import merge_state_dicts
from mmtmerge.merge.task_vectors import state
from mmtmerge.repair import artefact as writing
from mmtmerge.repair import part_writer
from mmtmerge.repair.artefact_card import read_about, sizes, size_table
from mmtmerge.repair.compose import encode_expert, switched
from mmtmerge.repair.part_writer import SHARED, part_path
from mmtmerge.repair.parts import PARTS
from mmtmerge.repair.routed import Routed, expand
from mmtmerge.settings import load
from mmtmerge.translate_files import Request, translate_file

EVERYTHING = "all=whole"
SOME = "blocks:last(2)/projections=low_rank(4); blocks:first(1)/mlp=whole; norms=whole"
FEW = "blocks:last(1)/attention=low_rank(4); blocks:first(1)/norms=whole; blocks:first(1)/attention=bits"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    "The miniature with biases as base, and an expert of each direction around it."
    models, g = tmp_path_factory.mktemp("pristine"), torch.Generator().manual_seed(1)
    base = load_file(MINI / W)
    for name, tensor in base.items():
        if name.endswith("bias"):
            tensor += 0.02 * torch.randn(tensor.shape, generator=g)
    write_model(models / "base", base)
    for direction in DIRECTIONS:
        moved = {name: t + 0.01 * torch.randn(t.shape, generator=g) for name, t in base.items()}
        write_model(models / direction, moved)
    return models


@pytest.fixture
def models(pristine, tmp_path):
    "A copy to be spoilt; out/ is empty."
    for folder in pristine.iterdir():
        shutil.copytree(folder, tmp_path / folder.name)
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def adapters(pristine, tmp_path_factory):
    "The default artefact, which is read only."
    made = tmp_path_factory.mktemp("adapters")
    for folder in pristine.iterdir():
        (made / folder.name).symlink_to(folder)
    return repair_in(made, instructions=INSTRUCTIONS)


def bits(routed):
    return {name: tensor.clone() for name, tensor in state(routed.model).items()}


# What is written


@pytest.mark.parametrize("rules", ["projections=low_rank(2)", EVERYTHING, SOME])
def test_bytes_are_those_of_the_files(models, rules):
    "Every file of weights is counted once, and the sum is what is on the disk."
    out = repair_in(models, rules=rules)
    counted = {file: size for _, file, size, _ in sizes(out)}
    assert counted == {p.relative_to(out).as_posix(): p.stat().st_size for p in out.rglob("*.safetensors")}
    assert f"{sum(counted.values()):,}" in size_table(out) and size_table(out) in (out / "README.md").read_text()
    entries = read_about(out)["directions"].values()
    assert all(entry["bytes"] == counted[entry["file"]] for entry in entries)


@pytest.mark.parametrize(
    "trunk, hyper", [("task_arithmetic", {}), ("ties", dict(K=0.5)), ("base", {}), ("folder", {})]
)
def test_the_trunk_loads_alone(models, trunk, hyper):
    "As an ordinary checkpoint with its tokenizer; it is what the method, the base or the folder gives."
    named = models / "ta-en" if trunk == "folder" else trunk
    out = repair_in(models, trunk=named, lam=0.4, directions=("en-hi", "en-ta"), **hyper)
    base, *experts = (load_file(models / who / W) for who in ("base", "en-hi", "en-ta"))
    if trunk in ("base", "folder"):
        expected = load_file(models / ("base" if trunk == "base" else "ta-en") / W)
    else:
        expected = merge_state_dicts(base, experts, trunk, lam=0.4, embeddings="base", **hyper)
    assert same(tensors_of(out), expected)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert same(state(model), {name: t for name, t in expected.items() if name in state(model)})
    assert AutoTokenizer.from_pretrained(out).chat_template == AutoTokenizer.from_pretrained(MINI).chat_template


def test_what_threads_and_shards_are_there_does_not_matter(models):
    one = repair_in(models, "out/one", rules=SOME, threads=1)
    two = repair_in(models, "out/two", rules=SOME, threads=2, shard_gb=0.0005)
    assert len(list(two.glob("*.safetensors"))) > 1 and same(tensors_of(one), tensors_of(two))
    for direction in DIRECTIONS:
        assert same(load_file(one / part_path(direction, False)), load_file(two / part_path(direction, False)))


def test_it_is_what_the_parts_compute_in_memory(models):
    out = repair_in(models, rules=SOME)
    trunk, expert = tensors_of(out), load_file(models / "en-ta" / W)
    weights = switched(trunk, encode_expert(trunk, expert, SOME), SOME)
    routed = Routed.open(out)
    routed.switch("en-ta")
    assert same({name: bits(routed)[name] for name in weights}, weights)


@pytest.mark.parametrize("part", ["tall", "emr", "bits", "ternary", "drop", "rows"])
def test_other_parts(models, part):
    "Masks share one file; whatever the part, a switch gives what the parts give in memory."
    from mmtmerge.repair.compose import unify

    hyper = dict(tall="(.4)", emr="", bits="(1)", ternary="(.1)", drop="(.5)", rows="(.1)")[part]
    rules = f"projections={part}{hyper}"
    out = repair_in(models, rules=rules, trunk="base")
    experts = {d: load_file(models / d / W) for d in DIRECTIONS}
    base = load_file(models / "base" / W)
    shared = unify(base, experts, rules)
    assert bool(shared) == (out / SHARED).exists()
    weights = switched(base, encode_expert(base, experts["ta-en"], rules, shared), rules, shared)
    routed = Routed.open(out)
    routed.switch("ta-en")
    assert same({name: bits(routed)[name] for name in weights}, weights)


def test_rows_in_a_trunk_of_fewer_digits(models):
    "The rows are narrowed with the trunk, and still known by their numbers."
    out = repair_in(models, rules="embeddings=rows(.1)", dtype="bfloat16")
    (name,) = read_about(out)["tensors"]
    own = load_file(models / "en-ta" / W)[name].bfloat16()
    routed = Routed.open(out)
    routed.switch("en-ta")
    taken = (bits(routed)[name] == own).all(1)
    assert own.shape[0] / 10 <= taken.sum() < own.shape[0]


# What a switch computes


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_whole_parts_give_the_expert_back(models, dtype):
    "Bit for bit, through the files, in the trunk's type."
    out = repair_in(models, rules=EVERYTHING, dtype=dtype)
    routed = Routed.open(out)
    for direction in DIRECTIONS:
        routed.switch(direction)
        expert = load_file(models / direction / W)
        kind = getattr(torch, dtype or "float32")
        assert same(bits(routed), {name: t.to(kind) for name, t in expert.items() if name in bits(routed)})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_hundred_switches_change_no_bit(models, dtype):
    out = repair_in(models, rules=FEW, dtype=dtype)
    before, routed = contents(out), Routed.open(out)
    trunk = bits(routed)
    routed.switch("en-hi")
    hindi = bits(routed)
    for step in range(100):
        routed.switch(("en-ta", "ta-en", None)[step % 3])
        routed.switch("en-hi")
    assert same(bits(routed), hindi) and not same(hindi, trunk)
    routed.switch(None)
    assert same(bits(routed), trunk) and contents(out) == before


def test_only_tensors_with_a_part_are_touched(models):
    "The others keep even what somebody else wrote into them."
    routed = Routed.open(repair_in(models, rules=SOME))
    others = [name for name in routed.parameters if name not in routed.artefact.rule_of]
    with torch.no_grad():
        for name in others:
            routed.parameters[name].fill_(7.0)
    routed.switch("en-hi")
    assert others and all(bool((routed.parameters[name] == 7.0).all()) for name in others)


@pytest.mark.parametrize("rules, dtype", [(SOME, None), ("projections=low_rank(2)", "bfloat16"), (EVERYTHING, None)])
def test_expand_is_switch(models, rules, dtype):
    "Bit for bit; the result is an ordinary checkpoint."
    out = repair_in(models, rules=rules, dtype=dtype, instructions=INSTRUCTIONS)
    routed = Routed.open(out)
    routed.switch("ta-en")
    alone = expand(out, "ta-en", models / "out/ta-en", shard_gb=0.0005, progress=False)
    assert same(tensors_of(alone), {name: bits(routed)[name] for name in tensors_of(alone)})
    assert same(state(AutoModelForCausalLM.from_pretrained(alone)), bits(routed))
    assert "Translate ta-en" in (alone / "README.md").read_text() and not (alone / "parts.json").exists()


def test_another_type_than_on_disk(models):
    "A bfloat16 artefact opened in float32 has the expanded checkpoint's numbers."
    out = repair_in(models, dtype="bfloat16")
    routed = Routed.open(out, dtype="float32")
    routed.switch("en-hi")
    alone = tensors_of(expand(out, "en-hi", models / "out/en-hi", progress=False))
    assert same(bits(routed), {name: alone[name].float() for name in bits(routed)})


# Translating


SOURCES = ["the house is old", "he went home", "she reads a book every day", "it is raining", "they left early"]


def test_mixed_batches_equal_separate_ones(adapters):
    routed = Routed.open(adapters)
    directions = ["ta-en", "en-hi", "en-ta", "en-hi", "ta-en"]
    mixed = routed.translate(directions, SOURCES)
    for direction in DIRECTIONS:
        numbers = [i for i, d in enumerate(directions) if d == direction]
        apart = Routed.open(adapters).translate(direction, [SOURCES[i] for i in numbers])
        assert apart.texts == [mixed.texts[i] for i in numbers]
        assert apart.new_tokens == [mixed.new_tokens[i] for i in numbers]


def test_each_direction_costs_one_switch_and_has_its_own_instruction(adapters, monkeypatch):
    from mmtmerge.repair import routed as module

    asked, switches = [], []

    def recorded(model, tokenizer, instruction, sources, p, label=""):
        asked.append((instruction, sources))
        return module.Translations([instruction] * len(sources), [0] * len(sources), [9] * len(sources), 0.0)

    routed = Routed.open(adapters)
    part = routed.artefact.part
    monkeypatch.setattr(module, "translate_with", recorded)
    monkeypatch.setattr(routed.artefact, "part", lambda direction: (switches.append(direction), part(direction))[1])
    texts = routed.translate(["ta-en", "en-hi", "ta-en"], ["a", "b", "c"]).texts
    assert texts == ["Translate ta-en", "Translate en-hi", "Translate ta-en"] and switches == ["en-hi", "ta-en"]
    assert asked == [("Translate en-hi", ["b"]), ("Translate ta-en", ["a", "c"])]


# PEFT


def peft_model(folder, directions=DIRECTIONS):
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(folder)
    first, *others = (str(folder / "adapters" / d) for d in directions)
    loaded = peft.PeftModel.from_pretrained(model, first, adapter_name=directions[0])
    for direction, path in zip(directions[1:], others):
        loaded.load_adapter(path, adapter_name=direction)
    return loaded.eval()


def asked(tokenizer, texts):
    tokenizer.padding_side = "left"
    return tokenizer(texts, return_tensors="pt", padding=True)


@pytest.mark.parametrize("rules", ["projections=low_rank(2)", "blocks:last(2)/projections=low_rank(8)", "several"])
def test_peft_gives_the_logits_of_switched_weights(models, rules):
    "Also where only some blocks have a part, and where ranks differ."
    if rules == "several":
        rules = "blocks:last(2)/projections=low_rank(8); projections=low_rank(3)"
    out = repair_in(models, rules=rules)
    routed, loaded = Routed.open(out), peft_model(out)
    inputs = asked(routed.tokenizer, SOURCES)
    trunk = routed.model(**inputs).logits
    for direction in DIRECTIONS:
        routed.switch(direction)
        loaded.set_adapter(direction)
        with torch.no_grad():
            ours, theirs = routed.model(**inputs).logits, loaded(**inputs).logits
        assert (ours - theirs).abs().max() < 1e-4 < (ours - trunk).abs().max()


def test_peft_mixes_directions_in_a_batch(adapters):
    "By adapter_names; each row is that of the same batch with one adapter."
    loaded, tokenizer = peft_model(adapters), AutoTokenizer.from_pretrained(adapters)
    inputs = asked(tokenizer, SOURCES)
    names = ["en-ta", "en-hi", "ta-en", "en-hi", "en-ta"]
    how = dict(max_new_tokens=8, do_sample=False, use_cache=True, pad_token_id=tokenizer.pad_token_id)
    mixed = loaded.generate(**inputs, adapter_names=names, **how)
    apart = {d: loaded.generate(**inputs, adapter_names=[d] * len(names), **how) for d in DIRECTIONS}
    for row, direction in enumerate(names):
        width = min(mixed.shape[1], apart[direction].shape[1])
        assert torch.equal(mixed[row, :width], apart[direction][row, :width])


def test_the_factors_are_stored_once(adapters):
    assert not (adapters / "parts").exists()
    config = json.loads((adapters / "adapters/en-hi/adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 2 and len(config["target_modules"]) == 7
    card = (adapters / "README.md").read_text()
    commands = ("--max-lora-rank 8", "--lora-modules en-hi=DIR/adapters/en-hi", "convert_lora_to_gguf.py --base DIR")
    assert all(said in card for said in (*commands, "Translate en-hi"))


# Failures leave nothing


def spoil(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("trunk", ["task_arithmetic", "base"])
@pytest.mark.parametrize("who", ["base", "en-ta"])
def test_nan_is_refused_and_leaves_nothing(models, trunk, who):
    spoil(models / who / W, lambda tensors: tensors[UP].view(-1)[:1].fill_(torch.nan))
    with pytest.raises(UserError, match=f"'{UP}' of .*/{who}/{W} holds NaN or Inf"):
        repair_in(models, "out/new/artefact", trunk=trunk)
    assert not list((models / "out").iterdir())


SLOW = """import pathlib, sys, time
from mmtmerge.repair import artefact, part_writer
models, name, calls = pathlib.Path(sys.argv[1]), sys.argv[2], []
where = part_writer if name == "encode" else artefact
f = getattr(where, name)
def stop(*args):
    calls.append(1)
    if len(calls) == int(sys.argv[3]): print("here", flush=True); time.sleep(600)
    return f(*args)
setattr(where, name, stop)
experts = {d: models / d for d in ("en-hi", "en-ta", "ta-en")}
artefact.repair_checkpoints(models / "base", experts, models / "out/artefact", threads=1, progress=False)"""


@pytest.mark.parametrize("where, call", [("encode", 70), ("write_about", 1), ("artefact_card", 1)])
def test_killed(models, where, call):
    "Killed amid its parts or at its end, it leaves nothing that looks whole; a second writer is refused meanwhile."
    argv = [sys.executable, "-c", SLOW, models, where, str(call)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment(REPO)) as p:
        try:
            assert p.stdout.readline() == "here\n"
            with pytest.raises(UserError, match="out/artefact is being written by another"):
                repair_in(models)
        finally:
            p.kill()
    assert p.returncode == -signal.SIGKILL
    left = list((models / "out").iterdir())
    assert left and all(x.name.startswith(".") for x in left)
    out = repair_in(models)
    assert [x.name for x in (models / "out").iterdir()] == ["artefact"]
    assert contents(out) == contents(repair_in(models, "out/again"))


def test_killed_expand(adapters, tmp_path, monkeypatch):
    "An error at the end of an expansion leaves nothing."
    from mmtmerge.repair import routed

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(routed, "check_written", fail)
    with pytest.raises(UserError, match="the disk of .* is full"):
        expand(adapters, "en-hi", tmp_path / "deep/en-hi", progress=False)
    assert not list(tmp_path.iterdir())


def test_two_at_once(models, monkeypatch):
    encode, begun, go_on, done = part_writer.encode, threading.Event(), threading.Event(), []

    def slow(*args):
        begun.set()
        assert go_on.wait(600)
        return encode(*args)

    monkeypatch.setattr(part_writer, "encode", slow)
    first = threading.Thread(target=lambda: done.append(repair_in(models)))
    first.start()
    try:
        assert begun.wait(600)
        with pytest.raises(UserError, match="is being written by another"):
            repair_in(models)
    finally:
        go_on.set()
        first.join()
    assert done == [models / "out/artefact"] and [x.name for x in (models / "out").iterdir()] == ["artefact"]


def test_disk_too_small(models, monkeypatch):
    "Asked about before anything is written."
    monkeypatch.setattr(writing, "write_artefact", lambda *args: pytest.fail("writing began"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 3_000_000))
    with pytest.raises(UserError, match="artefact needs .* MB, the disk has 3 MB left"):
        repair_in(models)
    assert not list((models / "out").iterdir())


# Refusals


BAD = {
    "is given twice": dict(experts={"en-hi": "en-hi", "en-ta": "en-hi"}),
    "direction 'en.hi'": dict(experts={"en.hi": "en-hi"}),
    "must be given by direction": dict(experts=["en-hi"]),
    "is no folder": dict(experts={"en-hi": "nowhere"}),
    "did you mean 'low_rank'?": dict(rules="projections=lowrank(2)"),
    "fit no tensor": dict(rules=""),
    "did you mean 'task_arithmetic'?": dict(trunk="task_arithmetics"),
    "is no merge: it takes no K": dict(trunk="base", K=0.5),
    "ties needs the hyper-parameter 'K'": dict(trunk="ties"),
    "instructions: none for en-ta": dict(instructions={"en-hi": "Translate"}),
    "retention: unknown direction 'hi-en'": dict(retention={"hi-en": 0.9}),
    "unknown dtype 'float'": dict(dtype="float"),
    "cannot be adapters: model.layers.0.input_layernorm.weight, ": dict(rules="norms=whole", adapters=True),
    "threads must be at least 1": dict(threads=0),
    "exists already": dict(out="base"),
    "lies inside the input": dict(out="base/artefact"),
    "given twice, as the base and as an expert": dict(experts={"en-hi": "base"}),
}


@pytest.mark.parametrize("said", BAD)
def test_refusals(models, said):
    both = {"en-hi": "en-hi", "en-ta": "en-ta"}
    given = dict(experts=both, out="out/artefact", threads=1, progress=False) | BAD[said]
    experts, out = given.pop("experts"), given.pop("out")
    if isinstance(experts, dict):
        experts = {direction: models / folder for direction, folder in experts.items()}
    before = contents(models)
    with pytest.raises(UserError, match=re.escape(said)):
        writing.repair_checkpoints(models / "base", experts, models / out, **given)
    assert contents(models) == before


def test_masks_need_the_base_as_trunk(models):
    with pytest.raises(UserError, match="give trunk='base'"):
        repair_in(models, rules="projections=tall(.4)")


def test_a_trunk_of_another_architecture(models):
    config = json.loads((models / "ta-en/config.json").read_text())
    (models / "ta-en/config.json").write_text(json.dumps(config | dict(rms_norm_eps=0.1)))
    with pytest.raises(UserError, match="rms_norm_eps=0.1"):
        repair_in(models, trunk=models / "ta-en", directions=("en-hi",))


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "change, said",
    [
        (cut, "is truncated or damaged"),
        (flip, "is damaged: its XXH3-128 is"),
        (lambda file: file.unlink(), "is missing: copy the whole folder again"),
    ],
    ids=["cut", "flipped", "missing"],
)
@pytest.mark.parametrize("rules", ["projections=low_rank(2)", SOME])
def test_damaged_parts(models, rules, change, said):
    "The one direction is refused, by a switch and by expand; the model stays as it was, the others work."
    out = repair_in(models, rules=rules)
    change(out / part_path("en-hi", rules != SOME))
    routed = Routed.open(out)
    routed.switch("en-ta")
    before = bits(routed)
    for use in (lambda: routed.switch("en-hi"), lambda: expand(out, "en-hi", models / "out/alone", progress=False)):
        with pytest.raises(UserError, match=said):
            use()
    assert routed.direction == "en-ta" and same(bits(routed), before)
    routed.switch("ta-en")
    assert {x.name for x in (models / "out").iterdir()} == {"artefact"}


def test_parts_of_another_trunk(models):
    "Exchanged parts and exchanged trunks are both noticed."
    out, other = repair_in(models), repair_in(models, "out/other", lam=0.5)
    shutil.copy(other / part_path("en-hi", True), out / part_path("en-hi", True))
    with pytest.raises(UserError, match="is a part of another trunk"):
        Routed.open(out).switch("en-hi")
    shutil.copy(other / W, out / W)
    with pytest.raises(UserError, match="holds another trunk than the one its parts belong to"):
        Routed.open(out)


def test_parts_of_another_direction(models):
    "A part under the name of another direction is not the file that was written."
    out = repair_in(models)
    shutil.copy(out / part_path("en-ta", True), out / part_path("en-hi", True))
    with pytest.raises(UserError, match="is the part of en-ta, parts.json says of en-hi"):
        Routed.open(out).switch("en-hi")


def test_parts_under_each_other_s_names(models):
    "The list of files is not what says whose a part is."
    out = repair_in(models)
    about = json.loads((out / "parts.json").read_text())
    two = about["directions"]
    two["en-hi"]["file"], two["en-ta"]["file"] = two["en-ta"]["file"], two["en-hi"]["file"]
    two["en-hi"]["xxh3_128"], two["en-ta"]["xxh3_128"] = two["en-ta"]["xxh3_128"], two["en-hi"]["xxh3_128"]
    (out / "parts.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="is the part of en-ta, parts.json says of en-hi"):
        Routed.open(out).switch("en-hi")


def test_names_and_prompts(models):
    "An unknown direction and a missing prompt are refused before the model is touched."
    routed = Routed.open(repair_in(models))
    for use in (routed.switch, lambda d: routed.translate(["en-hi", d], ["a", "b"])):
        with pytest.raises(UserError, match="has no (direction 'en-th': did you mean 'en-ta'|instruction for en-hi)"):
            use("en-th")
    with pytest.raises(UserError, match="parts.json has no instruction for en-hi"):
        routed.translate("en-hi", ["a"])
    assert routed.direction is None


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "holds no parts.json: it is no artefact"),
        ("{", "parts.json is not whole JSON"),
        ('{"format": 2}', "has format 2, this version reads 1"),
        ('{"format": 1}', "parts.json is not whole"),
        ('{"format": 1, "trunk": {"digest": "a"}, "directions": {"a": 3}, "tensors": {"a": "all=bits"}}', "not whole"),
        ('{"format": 1, "trunk": {"digest": 1}, "directions": {}, "tensors": []}', "parts.json is not whole"),
    ],
)
def test_no_artefact(models, content, said):
    if content:
        (models / "base/parts.json").write_text(content)
    for use in (Routed.open, lambda folder: expand(folder, "en-hi", models / "out/alone")):
        with pytest.raises(UserError, match=said):
            use(models / "base")


# The command line


@pytest.fixture
def command(models, monkeypatch, capsys):
    "Runs a command in models, in this process: exit status, and what it printed."
    monkeypatch.chdir(models)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["mmtmerge", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return run


GIVEN = "--base base --expert en-hi=en-hi --expert en-ta=en-ta"


def test_help_names_every_part_and_place(command):
    from mmtmerge.repair.where import KINDS, SELECTIONS

    code, out, _ = command("repair", "--help")
    assert code == 0 and [name for name in (*PARTS, *KINDS, *SELECTIONS) if name not in out] == []


def test_command(command, models):
    "Writes what the module writes, and prints the sizes; the prompts are the study's where it has the direction."
    words = f"repair {GIVEN} --trunk ties --K .7 --lam .3 --part projections=low_rank(2) --threads 1 --out out/one"
    code, out, err = command(*words.split())
    assert code == 0 and size_table(models / "out/one") in out, err
    same_as = repair_in(models, "out/two", directions=("en-hi", "en-ta"), trunk="ties", K=0.7)
    assert same(tensors_of(models / "out/one"), tensors_of(same_as))
    about = read_about(models / "out/one")["directions"]
    assert about["en-hi"]["instruction"] == "Translate the following English sentence to Hindi"
    code, out, err = command("expand", "out/one", "en-hi", "out/alone")
    assert code == 0 and out.strip() == "out/alone", err
    assert (models / "out/alone/config.json").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (f"repair {GIVEN} --out out/x --part projections=lowrank(2)", "did you mean 'low_rank'?"),
        ("repair --base base --expert en-hi --out out/x", "--expert en-hi: write DIRECTION=FOLDER"),
        (f"repair {GIVEN} --expert en-hi=ta-en --out out/x", "--expert en-hi=... is given twice"),
        (f"repair {GIVEN} --trunk ties --out out/x", "ties needs the hyper-parameter 'K'"),
        (f"repair {GIVEN} --rules x --out out/x", "--rules is no option"),
        ("repair --base base --expert xx-yy=en-hi --out out/x", "--instruction 'xx-yy=...'"),
        (f"repair {GIVEN} --instruction en-te=x --out out/x", "unknown direction 'en-te'"),
        ("expand base en-hi out/x", "it is no artefact"),
    ],
)
def test_command_refuses(command, models, words, said):
    "One line, exit status 2, and nothing is written."
    before = contents(models)
    code, out, err = command(*words.split())
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1 and said in err, err
    assert contents(models) == before


# The command `mmtmerge translate`


def test_the_command_translates_with_an_artefact(adapters, tmp_path):
    text, ours, others = b"Open the file.\nSave it\n", tmp_path / "ours", tmp_path / "others"
    translate_file(adapters, Request("en-hi", load().prompt, batch=2), text, "text", None, ours, quiet=True)
    expand(adapters, "en-hi", tmp_path / "en-hi")
    plain = Request("en-hi", INSTRUCTIONS["en-hi"], batch=2)
    translate_file(tmp_path / "en-hi", plain, text, "text", None, others, quiet=True)
    assert ours.read_bytes() == others.read_bytes() and len(ours.read_bytes().splitlines()) == 2


@pytest.mark.parametrize(
    "values, told",
    [(dict(direction="en-te"), "has no direction 'en-te'"), (dict(prompt="Say"), "holds the prompt of each direction"),
     (dict(engine="ctranslate2"), "mmtmerge expand")],
)
def test_what_an_artefact_cannot_translate_is_refused(adapters, values, told, tmp_path):
    request = Request(**dict(direction="en-hi", prompt=load().prompt) | values)
    with pytest.raises(UserError, match=told):
        translate_file(adapters, request, b"a\n", "text", None, tmp_path / "out", quiet=True)
    assert not list(tmp_path.iterdir())
