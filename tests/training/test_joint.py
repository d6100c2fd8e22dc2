"""One model fine-tuned on several directions: its names, its data, its mean dev loss, its checkpoints, its cost;
on two processes what one makes; and the experts of one direction, which stay as they are."""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import mmtmerge, set_values
from safetensors.torch import load_file
from training.jobs import done, job, losses, spread, start, tuned, use_corpus, write_corpus

from mmtmerge.core import UserError, root, write_json
from mmtmerge.models import load_model
from mmtmerge.settings import BASE, System, file_name, load, profiles
from mmtmerge.study import cost
from mmtmerge.study.plan import plan
from mmtmerge.study.stages.mountdoom import TRANSLATE, made_by, of_one_direction, system_of
from mmtmerge.repair.candidates import joint_moments
from mmtmerge.study.stages.repair import repair_groups
from mmtmerge.training.checkpoints import MarkWhole
from mmtmerge.training.finetune import OrderedTrainer, answering, arguments, tune
from mmtmerge.training.job import data, direction_data, scored_sets, union, work
from mmtmerge.training.launch import Job, joint_pace, launch, spacing
from mmtmerge.training.llama_factory import llama_factory
from mmtmerge.training.loss import IGNORED, answer_loss, collate

PROFILES = ("smoke", "laptop", "llama", "paper")


# Names


@pytest.mark.parametrize("profile", profiles())
def test_every_joint_name_has_the_members_of_its_group(profile):
    study = load(profile)
    for group, members in study.groups.items():
        assert study.members(f"joint:{group}") == members
    assert study.members("joint:all") == study.directions
    assert all(study.members(direction) == [direction] for direction in study.directions)


@pytest.mark.parametrize("profile", profiles())
def test_names_of_systems_come_back_from_their_text_and_from_their_files(profile):
    study = load(profile)
    names = [BASE, *study.directions, *study.joint_names()]
    for name in (*study.directions, *study.joint_names()):
        names += [f"{name}@{share}" for share in study.snapshots(name)]
    names += [f"{group}.{method}" for group in study.groups for method in study.methods]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(files) and not any(":" in name for name in files)
    for name, file in zip(names, files):
        system = study.system(name)
        assert str(system) == name and system_of(study, file) == system
        run = TRANSLATE.run(system=name, direction=study.directions[0])
        assert ":" not in run.key and of_one_direction(study, run.key) == run.given
        assert ":" not in made_by(study, name).key


@pytest.mark.parametrize(
    "name, says",
    [
        ("joint:en-indc", "unknown joint model 'joint:en-indc': did you mean 'joint:en-indic'"),
        ("joint:en-hi", "unknown joint model 'joint:en-hi'"),
        ("joint:", "unknown joint model 'joint:'"),
        ("joint-en-indic", "did you mean 'joint:en-indic'"),
        ("en-indic", "unknown direction 'en-indic'"),
        ("en-xx", "unknown direction 'en-xx'"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(name, says):
    with pytest.raises(UserError, match=says):
        load("laptop").check_expert(name)


@pytest.mark.parametrize(
    "text", ["joint:en-indic@.5", "joint:all@.25", "hi-en@.125", "joint:en-indic.ties", "joint:all+base", "joint:x"]
)
def test_wrong_systems_are_refused(text):
    with pytest.raises(UserError, match="unknown"):
        load("laptop").system(text)


def test_a_joint_model_is_not_a_direction():
    study = load("laptop")
    for check in (study.direction, study.directions_of, study.instruction, study.train_pairs):
        with pytest.raises(UserError, match="unknown direction"):
            check("joint:en-indic")


@pytest.mark.parametrize("target", ["mountdoom", "translation", "growth", "confounds"])
def test_the_main_study_has_no_joint_model(target):
    assert not [run for run in plan(load("laptop"), target) if "joint" in str(run)]


def test_groups_and_lines_of_the_main_study_stay():
    study = load("laptop")
    assert list(study.groups) == ["indic-en", "en-indic", "bi-hi", "bi-bn", "bi-ta", "bi-te"]
    assert [System.parse(text).variant for text in ("hi-en", "hi-en@.25", "joint:all@.125")] == [False, True, False]


def test_what_repairs_are_compared_with():
    study = load("laptop")
    moments = {group: joint_moments(study, group) for group in repair_groups(study)}
    told = {group: at for group, at in moments.items() if at}
    assert told == {"indic-en": ["", ".25"], "en-indic": ["", ".25"], "all": ["", ".125"]}
    trained = {run.key for run in plan(study, "repair") if run.folder == "finetune"}
    assert {"joint-indic-en", "joint-en-indic", "joint-all"} <= trained


# Data


@pytest.fixture(scope="module")
def model():
    return load_model(root() / "mmtmerge/data/miniature")


def a_job(folder, direction):
    return Job("smoke", direction, 42, str(folder), str(root() / "mmtmerge/data/miniature"))


@pytest.mark.parametrize("name", ["joint:en-indic", "joint:indic-en", "joint:bi-ta", "joint:all"])
def test_the_union_has_the_pairs_of_each_expert_under_its_own_instruction(tmp_path, model, name):
    study, tokenizer = load("smoke"), model[1]
    train, dev = data(study, a_job(tmp_path, name), tokenizer)
    assert list(train) == list(dev) == study.members(name)
    for direction in train:
        alone = direction_data(study, a_job(tmp_path, direction), direction, tokenizer)
        assert [train[direction][:], dev[direction][:]] == [alone[0][:], alone[1][:]]
        for row in (*train[direction], *dev[direction]):
            assert study.instruction(direction) in tokenizer.decode(row["input_ids"])
    together = union(train)
    assert together["input_ids"][:] == [row["input_ids"] for examples in train.values() for row in examples]


def test_directions_are_mixed_within_batches(tmp_path, model):
    "Of 96 and 64 pairs, hardly a batch of 16 has one direction only."
    study, (mini, tokenizer) = load("smoke"), model
    train, _ = data(study, a_job(tmp_path, "joint:indic-en"), tokenizer)
    first = len(train["hi-en"])
    args = arguments(study.p, tmp_path, 10, 1e-3, 42, evaluate=False)
    order = list(OrderedTrainer(mini, args, collate, union(train))._get_train_sampler())
    assert sorted(order) == list(range(160))
    batches = [order[start : start + 16] for start in range(0, 160, 16)]
    mixed = [0 < sum(number < first for number in batch) < 16 for batch in batches]
    assert sum(mixed) >= 9


def test_the_loss_of_a_mixed_batch_is_that_of_its_directions(tmp_path, model):
    "Weighted by their answer tokens, however much of the prompts is shared."
    study, (mini, tokenizer) = load("smoke"), model
    train, _ = data(study, a_job(tmp_path, "joint:all"), tokenizer)
    parts = [list(examples.select(range(4))) for examples in train.values()]
    mixed = collate([row for rows in parts for row in rows])
    total = count = 0
    with torch.no_grad():
        for rows in parts:
            batch = collate(rows)
            answers = (batch["labels"] != IGNORED).sum()
            total, count = total + answers * answer_loss(mini, batch), count + answers
        for once in (True, False):
            torch.testing.assert_close(answer_loss(mini, mixed, once=once), total / count)


# The mean dev loss and the best checkpoint


@pytest.mark.parametrize("sizes", [(8, 8), (3, 8), (16, 1)])
def test_each_direction_counts_the_same_in_the_dev_loss(tmp_path, model, sizes, capsys):
    study, (mini, tokenizer) = load("smoke"), model
    _, dev = data(study, a_job(tmp_path, "joint:en-indic"), tokenizer)
    dev = {direction: lines.select(range(size)) for (direction, lines), size in zip(dev.items(), sizes)}
    args = arguments(study.p, tmp_path, 10, 1e-3, 42, evaluate=True)
    with answering(mini):
        trainer = OrderedTrainer(mini, args, collate, dev["en-hi"], dev)
        scored = trainer.evaluate()
        each = [OrderedTrainer(mini, args, collate, lines, lines).evaluate() for lines in dev.values()]
    alone = [loss["eval_loss"] for loss in each]
    assert [scored["eval_en-hi_loss"], scored["eval_en-ta_loss"]] == alone
    assert scored["eval_loss"] == sum(alone) / 2
    assert [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line] == [scored["eval_loss"]]


def test_a_direction_without_dev_lines_is_not_scored(tmp_path, model):
    _, dev = data(load("smoke"), a_job(tmp_path, "joint:en-indic"), model[1])
    none = {direction: lines.select([]) for direction, lines in dev.items()}
    assert not scored_sets(none)
    assert list(scored_sets(none | {"en-ta": dev["en-ta"]})) == ["en-ta"]


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    "A joint model of all directions of the profile `smoke`: its job and what that reports."
    made = a_job(tmp_path_factory.mktemp("joint"), "joint:all")
    return made, work(made)


def test_what_a_joint_training_reports(joint):
    made, report = joint
    study = load("smoke")
    assert report["pairs_by_direction"] == {d: study.train_pairs(d) for d in study.directions}
    assert report["pairs"] == 320 and report["steps"] == 20 and report["tokens"] > report["answer_tokens"]
    assert [point["step"] for point in report["curve"]] == [5, 10, 15, 20]
    assert report["snapshots"] == {"0.25": 5}
    for point in report["curve"]:
        parts = [point[f"eval_{direction}_loss"] for direction in study.directions]
        assert point["eval_loss"] == pytest.approx(sum(parts) / 4, rel=1e-12)


def test_the_best_checkpoint_is_that_of_the_lowest_mean(joint):
    made, report = joint
    best = min(report["curve"], key=lambda point: point["eval_loss"])
    assert report["best_step"] == best["step"]
    kept = weights(Path(made.folder) / f"trainer/checkpoint-{best['step']}")
    assert equal(weights(Path(made.folder) / "checkpoint"), kept)


def test_an_interrupted_joint_training_ends_as_an_undisturbed_one(joint, tmp_path, monkeypatch):
    def dies(self, args, state, control, **kwargs):
        if state.global_step == 12:
            raise KeyboardInterrupt

    again = a_job(tmp_path, "joint:all")
    with monkeypatch.context() as patched:
        patched.setattr(MarkWhole, "on_step_end", dies, raising=False)
        with pytest.raises(KeyboardInterrupt):
            work(again)
    report = work(again)
    assert report["resumed"] and report["best_step"] == joint[1]["best_step"]
    assert [point["eval_loss"] for point in report["curve"]] == [point["eval_loss"] for point in joint[1]["curve"]]
    assert equal(weights(tmp_path / "checkpoint"), weights(Path(joint[0].folder) / "checkpoint"))


def test_an_expert_of_one_direction_is_trained_as_ever(tmp_path, model):
    "Its own data sets, the profile's own evaluations and snapshots: nothing of joint models is in it."
    study = load("smoke")
    made = a_job(tmp_path / "job", "ta-en")
    report = work(made)
    mini, tokenizer = load_model(made.base)
    train, dev = direction_data(study, made, "ta-en", tokenizer)
    directly = tune(mini, tokenizer, train, dev, study.p, tmp_path / "direct", study.p.lr, 42, study.p.snapshots)
    assert {"pairs_by_direction"}.isdisjoint(report)
    for name in ("curve", "snapshots", "steps", "best_step", "tokens"):
        assert report[name] == directly[name]
    assert set(report["curve"][0]) == {"step", "loss", "learning_rate", "eval_loss"}
    saved = weights(made.folder + "/checkpoint")
    assert all(torch.equal(saved[name], tensor) for name, tensor in mini.state_dict().items() if name in saved)


# Checkpoints and cost


@pytest.mark.parametrize("bound", [0, 7, 50, 5000])
@pytest.mark.parametrize("steps", [10, 57, 226, 338, 564, 84699])
@pytest.mark.parametrize("members", [2, 3, 4, 8])
def test_a_checkpoint_lies_at_the_mean_steps_of_an_expert(members, steps, bound):
    study = load("laptop")
    p = joint_pace(type(study.p)(**vars(study.p) | dict(evaluation_steps=bound)), members, steps)
    every, mean = spacing(p, steps), steps / members
    made = [step for step in range(1, steps + 1) if step % every == 0 or step == steps]
    nearest = min(made, key=lambda step: abs(step - mean))
    parts = p.evaluations // members
    assert abs(nearest - mean) <= max(parts, every / 2)
    assert len(made) <= p.evaluations
    if not bound:
        assert every == -(-steps // members) and nearest in (every, steps)
    else:
        assert every <= bound


def test_the_steps_of_the_laptop_study():
    study = load("laptop")
    names = ("joint:indic-en", "joint:en-indic", "joint:all")
    assert [cost.epoch_steps(study, name) for name in names] == [226, 338, 564]
    assert [study.snapshots(name) for name in names] == [[".25"], [".25"], [".125"]]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_joint_model_costs_what_its_experts_cost(profile):
    study = load(profile)
    machine = cost.Machine(study)
    for name in study.joint_names():
        whole = cost.finetune(machine, dict(direction=name))
        parts = [cost.finetune(machine, dict(direction=direction)) for direction in study.members(name)]
        assert whole["flops"] == pytest.approx(sum(part["flops"] for part in parts))
        assert whole["memory_gb"] == max(part["memory_gb"] for part in parts)
        assert whole["disk_gb"] <= max(part["disk_gb"] for part in parts) + 1e-9
        more = sum(part["steps"] for part in parts) - whole["steps"]
        assert 0 <= more < len(parts) * study.p.epochs


def test_llama_factory_is_refused(tmp_path):
    with pytest.raises(UserError, match="joint:en-indic is chosen by its mean dev loss over en-hi, en-ta"):
        llama_factory(load("smoke"), "joint:en-indic", 42, tmp_path / "out", "")
    assert not (tmp_path / "out").exists()


# Runs


def run(project, direction):
    return mmtmerge(project, "run", "finetune", "-p", "profile=smoke", "-p", f"direction={direction}")


@pytest.mark.slow
def test_what_a_group_is_matters_to_joint_models_only(blank):
    assert mmtmerge(blank, "run", "base", "-p", "profile=smoke").returncode == 0
    for direction in ("en-hi", "joint:bi-hi"):
        said = run(blank, direction)
        assert said.returncode == 0, said.stderr
    made = blank / "outputs/smoke/runs/finetune/joint-bi-hi/result.json"
    assert json.loads(made.read_text())["used"]["direction"] == "joint:bi-hi"
    set_values(blank, (r"bi-\{lang\} = .*", "bi-{lang} = {lang}-en"))
    assert "reused" in run(blank, "en-hi").stdout
    assert "reused" not in run(blank, "joint:bi-hi").stdout


# Two processes


@pytest.fixture(scope="module")
def project(copy, tmp_path_factory):
    "A copy of the repository that reads a corpus on disk."
    at, hub = copy("joint"), tmp_path_factory.mktemp("hub")
    use_corpus(at, write_corpus(hub))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_DATASETS_CACHE", str(hub / "cache"))
        yield at


def test_two_processes_make_what_one_makes(project, monkeypatch):
    spread(project, "none", 1)
    one = job(project, "one", "joint:bi-hi")
    with monkeypatch.context() as patched:
        patched.setattr(os, "environ", os.environ)  # see conftest
        patched.setenv("MMTMERGE_ROOT", str(project))
        write_json(Path(one.folder) / "tuned.json", work(one, launch("smoke")))
    spread(project, "ddp", 2)
    two = job(project, "two", "joint:bi-hi")
    done(start(project, two, monkeypatch))
    assert tuned(two)["pairs_by_direction"] == {"en-hi": 96, "hi-en": 96}
    assert tuned(two)["snapshots"] == tuned(one)["snapshots"] == {"0.5": 6}
    assert len(list(Path(two.folder).glob("trainer/tokens/*.arrow"))) == 2
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-4, atol=1e-4)
    for name in ("eval_en-hi_loss", "eval_hi-en_loss"):
        curves = [[point[name] for point in tuned(made)["curve"]] for made in (one, two)]
        assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    alone, both = (weights(Path(made.folder) / "checkpoint") for made in (one, two))
    for name in alone:
        torch.testing.assert_close(both[name], alone[name], rtol=1e-3, atol=1e-4)
