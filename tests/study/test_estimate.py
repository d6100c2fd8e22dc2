"A plan against measured runs and the paper's set-up by hand; the study it lists; what is refused before it starts."

import json
import re
import socket
from collections import Counter

import pytest

from conftest import REPO, mmtmerge
from mmtmerge import settings
from mmtmerge.study import estimate, plan


@pytest.fixture(scope="module")
def seen():
    return estimate.against_measured(settings.load("laptop"))


@pytest.mark.parametrize("stage", ["base", "finetune", "merge", "translate", "probe"])
def test_memory_of_each_run_is_planned_within_a_third(seen, stage):
    rows = seen[(seen.stage == stage) & (seen.what == "memory_gb")]
    assert len(rows) and rows.ratio.between(2 / 3, 4 / 3).all(), rows


@pytest.mark.parametrize("stage", ["finetune", "merge", "translate", "probe"])
def test_time_of_each_run_is_planned_within_a_factor_of_three(seen, stage):
    rows = seen[(seen.stage == stage) & (seen.what == "seconds")]
    assert len(rows) and rows.ratio.between(1 / 3, 3).all(), rows


def test_disk_is_planned_within_a_tenth(seen):
    rows = seen[seen.what.str.startswith("disk_gb")]
    assert len(rows) and rows.ratio.between(0.9, 1.1).all(), rows


def test_disk_of_a_probe_is_planned_within_a_tenth(tmp_path):
    from mmtmerge.corpus.open import open_corpus
    from mmtmerge.models import load_model
    from mmtmerge.probe.record import record
    from mmtmerge.probe.recording import save_recording
    from mmtmerge.probe.spans import examples

    study = settings.load("smoke")
    p, (model, tokenizer) = study.p, load_model(REPO / "mmtmerge/data/miniature")
    for d in study.groups["indic-en"]:
        rows = open_corpus(p.corpus).test("devtest", d, p.probe_lines, p.min_words, p.max_words)
        sequences = examples(tokenizer, study.instruction(d), rows.source.tolist(), rows.target.tolist())
        save_recording(record(model, tokenizer, sequences, p.probe_folds, out=tmp_path / d), tmp_path / d)
    planned = estimate.planned(study, "probe").set_index("run").disk_gb["probe/base__indic-en"]
    written = sum(f.stat().st_size for f in tmp_path.glob("*/*.safetensors")) / 1e9
    assert planned == pytest.approx(written, rel=0.1)


@pytest.fixture
def project(tmp_path):
    "A project whose settings may be changed."
    (tmp_path / "settings.ini").write_text((REPO / "settings.ini").read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("mmtmerge", "nbs", "workflow"):
        (tmp_path / name).symlink_to(REPO / name)
    return tmp_path


def change(project, *pairs):
    text = (project / "settings.ini").read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (project / "settings.ini").write_text(text, encoding="utf-8")


def columns(said, first):
    "A printed table: name of the row -> name of the column -> text."
    lines = [line for line in said.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head = max(i for i, row in enumerate(rows) if row[0] == first)
    return {row[0]: dict(zip(rows[head], row)) for row in rows[head + 2 :]}


WEIGHTS = {"paper": 3_085_938_688, "llama": 1_235_814_400}  # Qwen2.5-3B-Instruct, Llama-3.2-1B
STEPS = dict(
    hi=9864, bn=8399, ta=5137, te=4834
)  # 10.1, 8.6, 5.26 and 4.95 million pairs in batches of 1024, rounded up
RUNS = dict(base=1, finetune=8, merge=6, deltas=6, translate=34, probe=24, report=14)


@pytest.mark.parametrize("profile", WEIGHTS)
def test_the_plan_is_the_papers_by_hand(project, profile):
    checkpoint = WEIGHTS[profile] * 2 / 1e9
    stages = columns(mmtmerge(project, "plan", "--profile", profile).stdout, "stage")
    done = mmtmerge(project, "plan", "finetune", "--profile", profile).stdout
    runs = columns(done.split("| stage")[0], "run")
    assert {code: int(runs[f"finetune/en-{code}"]["steps"]) for code in STEPS} == {
        code: 3 * n for code, n in STEPS.items()
    }
    assert int(runs["finetune/en-hi"]["steps"]) == 29592
    assert int(stages["finetune"]["steps"]) == 2 * 3 * (9864 + 8399 + 5137 + 4834)
    assert "steps an epoch: 9864 (Hindi), 8399 (Bengali), 5137 (Tamil), 4834 (Telugu); epochs: 3" in done
    assert 8 * 8 * 16 == 1024 and "8 sequences a device x 16 = 1024 a step" in done
    assert (
        round(checkpoint, 2) == dict(paper=6.17, llama=2.47)[profile]
        and f"a checkpoint of it {checkpoint:.2f} GB" in done
    )
    assert float(stages["merge"]["GB that stay"]) == pytest.approx(24 * checkpoint, abs=0.01)
    assert profile == "llama" or 24 * checkpoint == pytest.approx(148.1, abs=0.05)
    assert float(runs["finetune/en-hi"]["GB that stay"]) == pytest.approx(
        3 * checkpoint, abs=0.01
    )  # the expert and two snapshots
    assert {stage: int(row["runs"]) for stage, row in stages.items()} == RUNS | dict(all=93)


def test_arithmetic_by_hand(project):
    """English to Hindi: 131 tokens a pair (40 of the instruction, 20, 70 and the end), 71 of them answered.
    Two operations a parameter forward, three times that with the way back."""
    head, pairs = 151_936 * 2048, 10_100_000
    body = 3_085_938_688 - head - 2048
    by_hand = 3 * 2 * (body * 131 + head * 71) * pairs * 3 / 1e15
    said = mmtmerge(project, "plan", "finetune/en-hi", "--profile", "paper").stdout
    row = columns(said.split("| stage")[0], "run")["finetune/en-hi"]
    assert float(row["PFLOPs"]) == pytest.approx(by_hand, abs=0.01)
    assert float(row["device-hours"]) == pytest.approx(
        by_hand / (0.989 * 0.35) / 3600, rel=0.02
    )  # and what starting and saving take


def test_memory_by_hand(project):
    """Weight, gradient and two states of AdamW in two bytes each, an eighth of them; the gradients
    whole, which FSDP keeps through the 16 micro-batches of a step; two blocks and the embeddings whole, with their
    gradients; 36 blocks' inside and the logits (float32, three times) of 8 sequences of 1024 tokens at most."""
    head = 151_936 * 2048
    block = 2048 * 128 * (2 * 16 + 2 * 2) + 3 * 2048 * 11008 + 2 * 2048 + 128 * (16 + 2 * 2)
    kept = 3_085_938_688 * (4 * 2 / 8 + 2) + 2 * (2 * block + head) * 2
    activations = 8 * 1024 * 2048 * 2 * 36 * (3 * 11008 / 2048 + 8)
    logits = 8 * 1024 * 71 / 131 * 151_936 * 4 * 3
    process = 0.9e9
    said = mmtmerge(project, "plan", "finetune/en-hi", "--profile", "paper").stdout
    row = columns(said.split("| stage")[0], "run")["finetune/en-hi"]
    assert float(row["GB a device"]) == pytest.approx((kept + activations + logits + process) / 1e9, abs=0.01)


@pytest.mark.parametrize("profile", WEIGHTS)
def test_dry_run_lists_the_whole_study_without_a_network(project, profile, monkeypatch):
    from typer.testing import CliRunner
    from mmtmerge.cli import app

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    said = CliRunner().invoke(app, ["rebuild", "--profile", profile, "--dry-run"])
    assert said.exit_code == 0 and not said.exception, said.output
    listed = re.findall(r"(?m)^    (\w+)/(\S+) +(.+)$", said.output)
    assert [(stage, key) for stage, key, _ in listed] == [r.id for r in plan.plan(settings.load(profile))]
    assert Counter(stage for stage, _, _ in listed) == RUNS
    assert {why for _, _, why in listed} == {"not made yet"}
    assert not list(project.glob("outputs/*/runs/*"))


def test_a_plan_that_cannot_fit_is_refused_with_what_would(project):
    change(
        project, ("memory_gb = 80\n", "memory_gb = 24\n")
    )  # 22.1 with activations computed again: of the 49.3 GB above 27.1 less
    done = mmtmerge(project, "plan", "finetune", "--profile", "paper", "--totals")
    assert done.returncode == 2 and "finetune/en-hi" not in done.stdout and "Traceback" not in done.stderr
    assert "finetune/" in done.stderr and "h100 has 24" in done.stderr and "device-hours" in done.stdout
    ways = dict(re.findall(r"([\w ,=]+?) \((\d+) GB\)", done.stderr.split("settings.ini, ")[1]))
    assert "activation_checkpointing = 1" in done.stderr and ways and all(int(gb) <= 24 for gb in ways.values())
    fsdp = "sharding = fsdp\nmicro_batch = 8\n"
    change(project, (fsdp, fsdp + "activation_checkpointing = 1\n"))  # it does
    assert "on a device" not in mmtmerge(project, "plan", "finetune", "--profile", "paper").stderr


def test_without_its_gpus_nothing_starts(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for words in (["rebuild", "finetune"], ["finetune", "en-hi"]):
        said = mmtmerge(project, *words, "--profile", "paper")
        assert said.returncode == 2 and "asks for 8 h100, this machine shows no GPUs" in said.stderr, said.stderr
        assert "[launch paper]" in said.stderr
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert "this machine shows 2 GPUs" in mmtmerge(project, "finetune", "en-hi", "--profile", "paper").stderr
    assert not list(project.glob("outputs/*/runs/*"))


@pytest.mark.slow
def test_hours_of_gpus_are_not_spent_unasked(blank, monkeypatch):
    "Experts that a changed notebook makes out of date are named and kept, until they are given up."
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    change(
        blank,
        ("tflops = 989", "tflops = .0000001"),
        ("\n[launch paper]\n", "\n[launch smoke]\nhardware = h100\n[launch paper]\n"),
    )
    again = ["rebuild", "finetune", "--profile", "smoke", "--cores", "32"]
    assert mmtmerge(blank, *again).returncode == 0  # nothing is lost by making what is not there
    times = {p: p.stat().st_mtime_ns for p in blank.glob("outputs/smoke/runs/finetune/*/result.json")}
    first, second = sorted((p for p in times if "joint" not in p.parent.name), key=times.get)
    assert (second.parent / "run.lock").stat().st_mtime_ns > times[
        first
    ]  # one GPU: they did not run at the same time
    notebook = blank / "nbs/runs/mountdoom/finetune.ipynb"
    notebook.write_text(notebook.read_text().replace("run.finish({}", "run.finish(dict(a=1)"))
    said = mmtmerge(blank, *again)
    assert said.returncode == 2 and "say --yes" in said.stderr
    for path, was in times.items():
        assert f"finetune/{path.parent.name}: code changed" in said.stderr and path.stat().st_mtime_ns == was
    direction = first.parent.name
    for words in (
        ["run", "finetune", "-p", "profile=smoke", "-p", f"direction={direction}"],
        ["finetune", direction, "--profile", "smoke"],
    ):
        said = mmtmerge(blank, *words)
        assert said.returncode == 2 and "GPUs trained" in said.stderr, said.stderr
        assert "say --yes (to mmtmerge run: --force)" in said.stderr
        assert (first.parent / "checkpoint").exists() and first.stat().st_mtime_ns == times[first]
    first.unlink()  # killed before its end: what it had trained counts as well
    assert (
        f"finetune/{direction}: not made yet" in mmtmerge(blank, *again).stderr
        and (first.parent / "checkpoint").exists()
    )
    assert mmtmerge(blank, *again, "--yes").returncode == 0
    assert all(json.loads(p.read_text())["result"] == dict(a=1) for p in times)


def test_the_guide_installs_the_pinned_torch():
    (pinned,) = re.findall(r"(?m)^torch==\S+$", (REPO / "constraints.txt").read_text())
    assert f"pip install {pinned} --index-url" in (REPO / "nbs/paper_scale.ipynb").read_text()
