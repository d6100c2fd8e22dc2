"""What an artefact of repair costs: to write, to switch, to decode mixed directions, and in memory beside whole models.

    python benchmarks/repair.py                            # random models of SmolLM2-135M's shape, eight directions
    python benchmarks/repair.py --full --out /big/disk     # of Qwen2.5-3B's shape: 56 GB of experts
    python benchmarks/repair.py --size tiny --directions 3 --sentences 4 --repeat 1 --json repair.json

- Models are random bfloat16 checkpoints of a known shape, with the miniature's tokenizer. Their task vectors have full
  rank, so that the parts say nothing about quality; times and sizes do not depend on that.
- Writing is `mmtmerge repair` in a fresh process: seconds, and the largest memory of its process tree, every 20 ms.
  Pages of mapped files are in it; without them it is shown, too.
- A switch is compared with reading the tensors it touches: copying them from the mapped trunk into the resident model.
  Both take turns, the page cache is warm, the best of --repeat counts.
- Decoding: the same sentences in one direction, and dealt out over all directions, sorted by direction with one switch
  each. With PEFT the directions share a batch (adapter_names); its two runs have the same rows and tokens.
- Memory is that of a fresh process that has opened the artefact and used every direction once, without the pages of
  mapped files, above what it held after its imports. It is compared with the weights of as many models.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from tabulate import tabulate

from mmtmerge.core import root, write_json
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.repair.artefact_card import size_table, sizes

# beside this file
from measuring import machine, measure, resident
from merge_inputs import SIZES, make_family

SWITCH = 2  # times reading the touched tensors, at most
WRITE_GB = 6  # resident, at most
RULES = "projections=low_rank(2)"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def best(f, repeat):
    "Seconds of the fastest of several calls."
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def names(count):
    return [f"en-x{i}" for i in range(1, count + 1)]


def make_models(work, size, directions):
    "A base and an expert of each direction, with a tokenizer that has a chat template."
    family = make_family(work, size, directions)
    for folder in (family.base, *family.experts):
        for file in TOKENIZER:
            shutil.copy(root() / "mmtmerge/data/miniature" / file, folder)
    return family


# Writing


def measure_writing(family, out, work, rules, threads):
    "Seconds and memory of the command."
    shutil.rmtree(out, ignore_errors=True)
    words = [sys.executable, "-m", "mmtmerge.cli", "repair", "--base", family.base, "--out", out, "--part", rules]
    for direction, folder in zip(names(len(family.experts)), family.experts):
        words += ["--expert", f"{direction}={folder}", "--instruction", f"{direction}=Translate to {direction}"]
    run = measure([*words, "--threads", threads], work / "repair.log")
    return run._asdict()


# Switching


def measure_switching(routed, repeat):
    "Seconds of a switch, and of reading what it touches."
    first, second = routed.artefact.directions[:2]
    routed.switch(first)
    routed.switch(second)  # both parts are checked and mapped

    def there_and_back():
        routed.switch(first)
        routed.switch(second)

    @torch.no_grad()
    def read():
        for name in routed.artefact.rule_of:
            routed.parameters[name].copy_(routed.artefact.trunk[name])

    turns = [(best(there_and_back, 1) / 2, best(read, 1)) for _ in range(repeat)]
    switching, reading = map(min, zip(*turns))
    routed.switch(None)
    touched = sum(routed.artefact.trunk[name].nbytes for name in routed.artefact.rule_of)
    return dict(switch=switching, read=reading, touched_bytes=touched)


# Decoding


def measure_decoding(routed, sources, repeat):
    "Tokens a second in one direction, and in all of them."
    every = list(islice(cycle(routed.artefact.directions), len(sources)))
    found = {}
    for what, directions in {"one direction": every[0], "all directions": every}.items():
        written = []

        def decode(directions=directions, written=written):
            written[:] = routed.translate(directions, sources).new_tokens

        decode()  # warm
        found[what] = dict(seconds=best(decode, repeat), tokens=sum(written))
    return found


def measure_peft(folder, directions, sources, tokens, repeat):
    "The same by PEFT: adapters side by side, a name for each row."
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    inputs = tokenizer(sources, return_tensors="pt", padding=True)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    how = dict(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0, use_cache=True)
    found = {"trunk alone, no adapter": best(lambda: plain.generate(**inputs, **how), repeat)}
    first, *others = directions
    model = PeftModel.from_pretrained(plain, str(folder / "adapters" / first), adapter_name=first).eval()
    for direction in others:
        model.load_adapter(str(folder / "adapters" / direction), adapter_name=direction)
    every = list(islice(cycle(directions), len(sources)))
    for what, rows in {"one adapter": [first] * len(sources), "all adapters": every}.items():
        found[what] = best(lambda rows=rows: model.generate(**inputs, adapter_names=rows, **how), repeat)
    return {what: dict(seconds=seconds, tokens=tokens * len(sources)) for what, seconds in found.items()}


# Memory, in a process of its own


def hold(folder):
    "Memory of all directions of an artefact, above that of the imports."
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from mmtmerge.repair.routed import Routed

    with torch.device("meta"):  # imports what the model needs
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    AutoTokenizer.from_pretrained(folder)
    before = resident(os.getpid())["RssAnon"]
    routed = Routed.open(folder, device="cpu")
    for direction in routed.artefact.directions:
        routed.switch(direction)
    after = resident(os.getpid())["RssAnon"]
    weights = sum(p.nbytes for p in routed.model.parameters())
    return dict(resident=after - before, model=weights, directions=len(routed.artefact.directions))


def fresh(folder):
    "What `hold` finds in a fresh process."
    words = [sys.executable, __file__, "--hold", str(folder)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.rpartition("RESULT ")[2])


# The report


class Report:
    "Rows of a table, and limits with their verdicts."

    def __init__(self):
        self.rows, self.judged = [], {}

    def row(self, what, seconds=None, mb=None, rate=None, limit=None, value=None, met=None):
        verdict = {True: "met", False: "MISSED", None: None}[met]
        self.rows.append([what, seconds, mb, rate, limit, verdict])
        if limit:
            self.judged[what] = dict(limit=limit, value=value, met=met)

    def __str__(self):
        headers = ["", "s", "MB", "tokens/s", "limit", ""]
        return tabulate(self.rows, headers=headers, tablefmt="github", floatfmt=".3f", missingval="")


def report_writing(report, run):
    limit = f"under {WRITE_GB} GB resident"
    peak = run["peak"]
    report.row("write the artefact", run["seconds"], peak / 1e6, None, limit, peak, peak < WRITE_GB * 1e9)
    report.row("without pages of mapped files", mb=run["peak_anonymous"] / 1e6)


def report_switching(report, found):
    ratio = found["switch"] / found["read"]
    touched = found["touched_bytes"] / 1e6
    report.row("read the touched tensors", found["read"], touched)
    limit = f"at most {SWITCH} times reading"
    report.row(f"switch ({ratio:.2f} times reading)", found["switch"], touched, None, limit, ratio, ratio <= SWITCH)


def report_decoding(report, found):
    for what, run in found.items():
        report.row(what, run["seconds"], rate=run["tokens"] / run["seconds"])


def report_memory(report, held):
    count, models = held["directions"], held["directions"] * held["model"]
    report.row(f"{count} directions, resident", mb=held["resident"] / 1e6)
    report.row(f"{count} models, their weights", mb=models / 1e6)


def main(
    size: Annotated[str, typer.Option(help=f"Shape of the models: {', '.join(SIZES)}.")] = "135m",
    full: Annotated[bool, typer.Option("--full", help="Qwen2.5-3B's shape.")] = False,
    directions: Annotated[int, typer.Option(min=2)] = 8,
    rules: Annotated[str, typer.Option(help="Parts; PEFT is measured if they are adapters.")] = RULES,
    sentences: Annotated[int, typer.Option(min=2)] = 32,
    new_tokens: Annotated[int, typer.Option(min=1, help="Of each sentence, with PEFT.")] = 12,
    decoding: Annotated[bool, typer.Option(help="Decode, too.")] = True,
    repeat: Annotated[int, typer.Option(min=1, help="Best of so many.")] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    out: Annotated[Path, typer.Option(help="Folder for models that are kept; default: a temporary one.")] = None,
    hold_: Annotated[Path, typer.Option("--hold", hidden=True)] = None,
    json_: Annotated[Path, typer.Option("--json", help="Write the numbers here.")] = None,
):
    "Measure writing, switching, decoding and memory against their limits."
    torch.set_num_threads(threads)
    if hold_:
        print("RESULT " + json.dumps(hold(hold_)))
        return
    size = "3b" if full else size
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        work = out or Path(temporary)
        family = make_models(work, size, directions)
        result = measure_all(family, work, rules, sentences, new_tokens, decoding, repeat, threads)
    if json_:
        options = dict(size=size, directions=directions, rules=rules, sentences=sentences, repeat=repeat)
        write_json(json_, dict(machine=machine(), options=options | dict(threads=threads)) | result)


def measure_all(family, work, rules, sentences, new_tokens, decoding, repeat, threads):
    "All measurements, printed as they are made."
    from mmtmerge.repair.routed import Routed

    report, folder = Report(), work / f"{family.name}-artefact"
    written = measure_writing(family, folder, work, rules, threads)
    report_writing(report, written)
    held = fresh(folder)
    report_memory(report, held)
    routed = Routed.open(folder, device="cpu")
    switching = measure_switching(routed, repeat)
    report_switching(report, switching)
    decoded = {}
    if decoding:
        sources = Corpus.open("embedded").test("devtest", "en-hi", sentences, 3, 12).source.tolist()
        decoded = measure_decoding(routed, sources, repeat)
        if find_spec("peft") and (folder / "adapters").exists():
            with_peft = measure_peft(folder, routed.artefact.directions, sources, new_tokens, repeat)
            decoded |= {f"PEFT: {what}": run for what, run in with_peft.items()}
        report_decoding(report, decoded)
    print(f"{family}, {rules}\n\n{size_table(folder)}\n\n{report}")
    measured = dict(writing=written, memory=held, switching=switching, decoding=decoded)
    return dict(sizes=sizes(folder), measured=measured, judged=report.judged)


if __name__ == "__main__":
    typer.run(main)
