"""How long recording takes, compared with a bare forward pass and with the usual way; the recorder's memory over the
number of sentences; and CKA of all pairs at the paper's size. Each is judged against its limit.

    python benchmarks/probe.py                       # a random model of SmolLM2-135M's shape
    python benchmarks/probe.py --model DIR --json probe.json
    python benchmarks/probe.py --sentences 16 --repeat 1 --no-cka --no-memory

- A bare pass is the decoder without its head over the same batches: length-sorted, the shared beginning of the prompts
  computed once, as `record` does; `not shared` is the same without sharing. All three take turns, the best of --repeat
  counts.
- The usual way of published code is one pass a probe (neurons, CKA) and span (source, target), with the head, each
  sequence padded to 1024; it is timed on two sentences and EXTRAPOLATED.
- Memory is that of fresh processes, each recording n, 4 n or 16 n sentences (the same n again and again) with features
  written to a temporary folder (671 MB with the defaults), by a random Llama of little compute and large features. Peak
  is the resident memory (VmHWM, set back before recording: Linux only) above that after loading and recording one
  batch; malloc returns what is freed (MALLOC_MMAP_THRESHOLD_), or leftovers would hide or make a peak. It may grow by
  one chunk's features and a slack; kept in memory, features take 2 spans x depths x n x hidden x 4 bytes, and where
  these grow by less than that nothing is judged. One more process keeps those of 4 n sentences, to show that they would
  be seen.
- CKA's own memory is bounded by number of features x n^2 x 4 bytes and the work of one Gram matrix: it grows with the
  sentences. It is that of a fresh process, above its random features. Its time is judged with two threads only, and no
  more cores than threads are used.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from tabulate import tabulate
from transformers import AutoTokenizer, DynamicCache, LlamaConfig, LlamaForCausalLM

from mmtmerge.core import root, write_json
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.models import load_model
from mmtmerge.probe.similarity import cka_pairs
from mmtmerge.probe.record import record
from mmtmerge.probe.spans import examples
from mmtmerge.settings import load
from mmtmerge.translate import common_prefix

RECORD, USUAL, CKA_S = 1.25, 4, 60      # bare passes at most, times less than the usual way at least, seconds
SLACK = 16e6                            # bytes by which the peak may grow, besides a chunk's features
CKA = dict(models=9, depths=37, sentences=1000, d=2048)
FEW = 2                                 # sentences of the usual way
PADDED = 1024                           # tokens of a sequence there
BATCH = 8                               # where memory is measured: a batch's own work is in every peak
SMOL = dict(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True,
)
WIDE = dict(
    vocab_size=3000, hidden_size=2048, intermediate_size=32, num_hidden_layers=8, num_attention_heads=4,
    num_key_value_heads=1, head_dim=16, tie_word_embeddings=True,
)
SENTENCE_BYTES = 2 * (WIDE["num_hidden_layers"] + 2) * WIDE["hidden_size"] * 4    # of one sentence's features


def random_model(shape):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    return model, AutoTokenizer.from_pretrained(root() / "mmtmerge/data/miniature")


def pairs(tokenizer, n):
    lines = Corpus.open("embedded").test("devtest", "hi-en", n, 3, 12)
    instruction = load().instruction("hi-en")
    return examples(tokenizer, instruction, lines.source.tolist(), lines.target.tolist())


def timed(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def resident(key):
    "Bytes that the kernel reports for this process."
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{key}:\s+(\d+)", status, re.M)[1])


def peak(f):
    "Resident bytes before, and the most above them while `f` runs."
    Path("/proc/self/clear_refs").write_text("5")       # the high-water mark is now what is resident
    before = resident("VmRSS")
    f()
    return dict(baseline=before, peak=resident("VmHWM") - before)


# What is timed


@torch.inference_mode()
def bare(model, sequences, batch_size, shared):
    "Forward passes of the decoder over the batches of `record`."
    decoder = model.get_decoder()
    ids = sorted((example.ids for example in sequences), key=len)
    prefix = 0
    if shared:
        prefix = min(common_prefix(ids), min(example.source.start for example in sequences))
    for i in range(0, len(ids), batch_size):
        batch = [sequence[prefix:] for sequence in ids[i : i + batch_size]]
        longest = max(map(len, batch))
        cache = None
        if prefix:
            cache = DynamicCache(config=model.config)
            decoder(input_ids=torch.tensor([ids[0][:prefix]]), past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(batch))
        padded = [sequence + [0] * (longest - len(sequence)) for sequence in batch]
        decoder(input_ids=torch.tensor(padded), past_key_values=cache, use_cache=bool(prefix))


@torch.inference_mode()
def usual(model, sequences):
    "Two probes and two spans: four passes a sentence."
    for example in sequences:
        length = len(example.ids)
        ids = torch.tensor([example.ids + [0] * (PADDED - length)])
        mask = (torch.arange(PADDED) < length).long()[None]
        for _ in range(4):
            model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)


# What runs in a process of its own


def recorder(n, times, kept, chunk):
    "Memory of recording `times` times the same n sentences, with features kept in memory or written."
    model, tokenizer = random_model(WIDE)
    few = pairs(tokenizer, n)
    with tempfile.TemporaryDirectory() as out:
        options = dict(batch_size=BATCH, chunk=chunk, out=None if kept else out)
        record(model, tokenizer, few[:BATCH], **options)     # warm
        memory = peak(lambda: record(model, tokenizer, few * times, **options))
    return dict(sentences=n * times, kept=kept) | memory


def all_pairs():
    "Time and memory of CKA."
    shape = CKA["sentences"], CKA["d"]
    features = []
    for i in range(CKA["models"]):
        rng = np.random.default_rng(i)
        features.append(rng.normal(size=shape).astype(np.float32))
    stack = [h + .1 * depth for h in features for depth in range(CKA["depths"])]
    seconds = []
    memory = peak(lambda: seconds.append(timed(lambda: cka_pairs(stack))))
    matrices = len(stack) * CKA["sentences"] ** 2 * 4
    return CKA | memory | dict(seconds=seconds[0], matrices=matrices)


def fresh(options, part, **environment):
    "What a part measures in a fresh process."
    arguments = ["--only", part]
    for name in ("memory_sentences", "chunk", "threads"):
        arguments += [f"--{name.replace('_', '-')}", str(options[name])]
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return json.loads(done.stdout.rpartition("RESULT ")[2])


# Measurements


def measure_memory(options):
    "The recorder's peaks over the number of sentences, each of a fresh process."
    runs = []
    for part in ("1", "4", "16", "4 kept"):
        run = fresh(options, part, MALLOC_MMAP_THRESHOLD_="262144")
        runs.append(run | dict(features=SENTENCE_BYTES * run["sentences"]))
    peaks = [run["peak"] for run in runs if not run["kept"]]
    return dict(
        runs=runs,
        model=WIDE,
        batch_size=BATCH,
        chunk_features=SENTENCE_BYTES * options["chunk"],
        slack=SLACK,
        growth=max(peaks) - peaks[0],
        features_grow=15 * SENTENCE_BYTES * options["memory_sentences"],
    )


def measure_times(model, tokenizer, sequences, options):
    "Seconds of bare passes, of the recorder and of the usual way."
    batch_size = options["batch_size"]
    works = {
        "bare forward pass": partial(bare, model, sequences, batch_size, True),
        "bare, beginning not shared": partial(bare, model, sequences, batch_size, False),
        "record": partial(record, model, tokenizer, sequences, batch_size=batch_size),
    }
    record(model, tokenizer, sequences[:8], batch_size=batch_size)     # warm
    seconds = {name: [] for name in works}
    for _ in range(options["repeat"]):
        for name, work in works.items():
            seconds[name].append(timed(work))
    measured = {name: dict(seconds=min(taken), all=taken) for name, taken in seconds.items()}
    few = timed(lambda: usual(model, sequences[:FEW]))
    measured["usual way"] = dict(seconds=few / FEW * len(sequences), extrapolated_from=FEW)
    return measured


# The report


class Report:
    "Rows of a table, and limits with their verdicts."
    def __init__(self):
        self.rows, self.judged = [], {}

    def row(self, what, seconds=None, mb=None, ratio=None):
        self.rows.append([what, seconds, mb, ratio, None, None])

    def judge(self, what, limit, value, met):
        "A limit for the last row; met is None where it is not judged."
        self.judged[what] = dict(limit=limit, value=value, met=met)
        verdict = {True: "met", False: "MISSED", None: "not judged"}[met]
        self.rows[-1][-2:] = limit, verdict

    def __str__(self):
        headers = ["", "s", "MB", "ratio", "limit", ""]
        return tabulate(self.rows, headers=headers, tablefmt="github", floatfmt=".2f", missingval="")


def report_times(report, measured):
    names = ("bare forward pass", "bare, beginning not shared", "record")
    forward, _, ours = (measured[name]["seconds"] for name in names)
    published = measured["usual way"]["seconds"]
    for name in names:
        seconds = measured[name]["seconds"]
        report.row(name, seconds, ratio=seconds / forward)
    report.judge("record", f"at most {RECORD} bare passes", ours / forward, ours <= RECORD * forward)
    report.row(f"usual way (EXTRAPOLATED from {FEW} sentences) / record", published, ratio=published / ours)
    limit = f"record at least {USUAL} times less"
    report.judge("usual way", limit, published / ours, published >= USUAL * ours)


def report_cka(report, found, threads):
    what = f"CKA, all pairs of {found['models']} models x {found['depths']} depths"
    seconds = found["seconds"]
    met = seconds < CKA_S if threads == 2 else None
    report.row(what, seconds, found["peak"] / 1e6)
    report.judge("cka", f"under {CKA_S} s on two cores", seconds, met)
    report.row("number of features x n^2 x 4 bytes", mb=found["matrices"] / 1e6)


def report_memory(report, found):
    for run in found["runs"]:
        kept = " kept in memory" if run["kept"] else ""
        features = f"(features {run['features'] / 1e6:.1f} MB)"
        what = f"peak, {run['sentences']} sentences{kept} {features}"
        report.row(what, mb=run["peak"] / 1e6)
    growth, features_grow = found["growth"], found["features_grow"]
    allowed = found["chunk_features"] + SLACK
    met = growth < allowed if allowed < features_grow else None
    report.row(f"growth of the peak (features grow by {features_grow / 1e6:.1f} MB)", mb=growth / 1e6)
    limit = f"below a chunk's features, {found['chunk_features'] / 1e6:.1f} MB, + {SLACK / 1e6:.0f} MB"
    report.judge("memory", limit, growth, met)


def describe(model, name):
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    kind = model.config.model_type if name else f"random {model.config.model_type}"
    return f"{kind}, {millions:.0f} M parameters"


def main(
    model: Annotated[Path, typer.Option(help="A checkpoint; default: random, of SmolLM2-135M's shape.")] = None,
    sentences: Annotated[int, typer.Option(min=8)] = 128,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    repeat: Annotated[int, typer.Option(min=1, help="Best of so many.")] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    cka: Annotated[bool, typer.Option(help="All pairs of 9 models x 37 depths x 1000 sentences x 2048.")] = True,
    memory: Annotated[bool, typer.Option(help="The recorder's memory over the number of sentences.")] = True,
    memory_sentences: Annotated[
        int, typer.Option(min=1, max=900, help="Sentences of the smallest of them; the largest has 16 times as many.")
    ] = 256,
    chunk: Annotated[int, typer.Option(min=1, help="Sentences whose features the recorder holds at once, there.")] = 64,
    only: Annotated[str, typer.Option(hidden=True)] = "",
    json_: Annotated[Path, typer.Option("--json", help="Write the numbers here.")] = None,
):
    "Measure recording and CKA against their limits."
    torch.set_num_threads(threads)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])
    if only:
        times, _, kept = only.partition(" ")
        found = all_pairs() if only == "cka" else recorder(memory_sentences, int(times), bool(kept), chunk)
        print("RESULT " + json.dumps(found))
        return

    from measuring import machine    # beside this file
    options = dict(
        model=str(model) if model else None,
        sentences=sentences,
        batch_size=batch_size,
        repeat=repeat,
        threads=threads,
        memory_sentences=memory_sentences,
        chunk=chunk,
    )
    measured = {}
    if memory:
        measured["memory"] = measure_memory(options)
    if cka:
        measured["cka"] = fresh(options, "cka")
    loaded, tokenizer = load_model(model) if model else random_model(SMOL)
    sequences = pairs(tokenizer, sentences)
    result = dict(machine=machine(), options=options, model=describe(loaded, model))
    for part in ("machine", "options"):
        print("  ".join(f"{name} {value}" for name, value in result[part].items()))
    tokens = np.mean([len(example.ids) for example in sequences])
    print(f"{result['model']}, {len(sequences)} sequences of {tokens:.0f} tokens\n")

    measured |= measure_times(loaded, tokenizer, sequences, options)
    report = Report()
    report_times(report, measured)
    if cka:
        report_cka(report, measured["cka"], threads)
    if memory:
        report_memory(report, measured["memory"])
    print(report)
    if json_:
        write_json(json_, result | dict(measured=measured, judged=report.judged))


if __name__ == "__main__":
    typer.run(main)
