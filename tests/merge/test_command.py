"`mmtmerge merge` from end to end: both forms, mergekit's own merge of the same file, and refusals in one line."

import sys

import pytest
import yaml
from conftest import REPO, mmtmerge
from models_on_disk import merge_in, same, snapshot, written
from test_oracles import MERGEKIT, close, of, short

from mmtmerge import cli
from mmtmerge.merge.apply import Recipe
from mmtmerge.merge.mergekit_yaml import write_config

pytest_plugins = ["models_on_disk"]
BOTH = ["--base", "base", "--expert", "a", "--expert", "b"]


@pytest.fixture
def merge(models, monkeypatch, capsys):
    "Runs the command in models, in this process: exit status, and what it printed."
    monkeypatch.chdir(models)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["mmtmerge", "merge", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "args, same_as",
    [
        ("--method ties --K .7 --lam .3", dict(method="ties", K=0.7, lam=0.3)),
        (
            "--method ties --preset mergekit --weight [1,.5] --normalize=false",
            dict(method="ties", preset="mergekit", weight=[1.0, 0.5], normalize=False),
        ),
        (
            "--method dare --p 5e-1 --seed 7 --embeddings merge --threads 2",
            dict(method="dare", p=0.5, seed=7, embeddings="merge"),
        ),
        ("--method karcher --max-iter 3.0 --tol 0", dict(method="karcher", max_iter=3, tol=0)),
        ("--method linear --dtype bfloat16", dict(method="linear", dtype="bfloat16")),
    ],
)
def test_options(merge, models, args, same_as):
    "What the module merges with the same arguments."
    code, out, err = merge(*args.split(), *BOTH, "--out", "out/command")
    assert code == 0 and out == "out/command\n", err
    assert same(written(models / "out/command"), written(merge_in(models, out="out/module", **same_as)))


ONE_BESIDE_THE_BASE = ("slerp", "passthrough", "nearswap", "arcee_fusion")


@pytest.mark.parametrize("method, hyper", dict(MERGEKIT).items(), ids=short)
def test_configuration_files(merge, models, method, hyper):
    "mergekit's command and ours make the same of one file."
    pytest.importorskip("mergekit")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    experts = {who: models / who for who in ("a" if method in ONE_BESIDE_THE_BASE else "ab")}
    hyper = {k: of(v, experts) for k, v in hyper.items()}
    lam = hyper.pop("lam", 1.0)
    (models / "merge.yml").write_text(
        text := write_config(Recipe(method, hyper, lam, "mergekit"), models / "base", experts, "float32")
    )
    code, out, err = merge("--config", "merge.yml", "--out", "out/ours")
    assert code == 0 and out == "out/ours\n", err
    run_merge(
        MergeConfiguration.model_validate(yaml.safe_load(text)), str(models / "out/theirs"), MergeOptions(quiet=True)
    )
    tolerance = 4e-6 if method == "multislerp" else 1e-6     # it divides by a norm of the whole tensor
    close(written(models / "out/ours"), written(models / "out/theirs"), tolerance)


@pytest.mark.parametrize(
    "args, said",
    [
        ("--method ties --K .7 --base base", "--expert is missing"),
        ("--method tie", "did you mean 'ties'?"),
        ("--method ties --k .7", "ties has no hyper-parameter 'k'"),
        ("--method ties", "ties needs the hyper-parameter 'K'"),
        ("--method ties --K .7 --K .8", "--K is given twice"),
        ("--method ties --K", "--K: a hyper-parameter is given as --name value"),
        ("--method ties --K high", "K must be a finite number: got 'high'"),
        ("--method linear --experts a", "--experts"),
        ("--method linear --tokenizer base", "--tokenizer"),
        ("--config merge.yml --method ties", "belongs into merge.yml"),
        ("--config nowhere.yml", "nowhere.yml cannot be read"),
        ("--config merge.yml", "unknown key 'dtpye': did you mean 'dtype'?"),
        ("--method linear --expert nowhere", "nowhere is no folder"),
        ("--method linear --out a/merged", "lies inside the input"),
    ],
)
def test_refusals(merge, models, args, said):
    "One line, exit status 2, and nothing is written."
    (models / "merge.yml").write_text(
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\ndtpye: float32\n"
    )
    args, before = args.split(), snapshot(models)
    code, out, err = merge(
        *args,
        *([] if {"--config", "--base"} & {*args} else BOTH),
        *([] if "--out" in args else ["--out", "out/merged"]),
    )
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1 and said in err, err
    assert snapshot(models) == before


def test_process(models):
    "The same from a shell: no traceback."
    done = mmtmerge(
        REPO,
        "merge",
        "--method",
        "iso_d",
        "--base",
        models / "base",
        "--expert",
        models / "a",
        "--out",
        models / "out/merged",
    )
    assert (
        done.returncode == 2
        and not done.stdout
        and done.stderr.startswith("error: unknown merging method 'iso_d': did you mean 'iso_c'?")
        and done.stderr.count("\n") == 1
    )
