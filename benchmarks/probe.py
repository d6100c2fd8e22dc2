"""How long recording takes beside a bare forward pass and beside the usual way, the recorder's memory over the number of sentences, and CKA of all pairs at
the paper's size, each judged against its limit.

    python benchmarks/probe.py                       # a random model of SmolLM2-135M's shape
    python benchmarks/probe.py --model DIR --json probe.json
    python benchmarks/probe.py --sentences 16 --repeat 1 --no-cka --no-memory

- A bare pass is the decoder without its head over the same batches: length-sorted, the shared beginning of the prompts computed once, as `record` does;
  `not shared` is the same without sharing. All three take turns, the best of --repeat counts.
- The usual way of published code is one pass a probe (neurons, CKA) and span (source, target), with the head, each sequence padded to 1024; it is timed on
  two sentences and EXTRAPOLATED.
- Memory is that of fresh processes, each recording n, 4 n or 16 n sentences (the same n again and again) with features written to a temporary folder (671 MB
  with the defaults), by a random Llama of little compute and large features. Peak is the resident memory (VmHWM, set back before recording: Linux only) above
  that after loading and recording one batch; malloc returns what is freed (MALLOC_MMAP_THRESHOLD_), or leftovers would hide or make a peak. It may grow by one chunk's features and a slack; kept in memory, features take 2 spans x depths x n x hidden x 4
  bytes, and where these grow by less than that nothing is judged. One more process keeps those of 4 n sentences, to show that they would be seen.
- CKA's own memory is bounded by number of features x n^2 x 4 bytes and the work of one Gram matrix: it grows with the sentences. It is that of a fresh process,
  above its random features. Its time is judged with two threads only, and no more cores than threads are used.
"""
import json, os, re, subprocess, sys, tempfile, time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from tabulate import tabulate
from transformers import AutoTokenizer, DynamicCache, LlamaConfig, LlamaForCausalLM

from mmtmerge.core import root, write_json
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.probe.geometry import cka_pairs
from mmtmerge.models import load_model
from mmtmerge.probe.record import examples, record
from mmtmerge.settings import load
from mmtmerge.translate import common_prefix

RECORD, USUAL, CKA_S = 1.25, 4, 60      # bare passes at most, times less than the usual way at least, seconds
SLACK = 16e6                            # bytes by which the peak may grow, beside a chunk's features
CKA = dict(models=9, depths=37, sentences=1000, d=2048)
FEW = 2                                 # sentences of the usual way
BATCH = 8                               # where memory is measured: a batch's own work is in every peak
SMOL = dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True)
WIDE = dict(vocab_size=3000, hidden_size=2048, intermediate_size=32, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True)


def random_model(shape):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**shape)).eval(), AutoTokenizer.from_pretrained(root() / "mmtmerge/data/miniature")


def pairs(tokenizer, n):
    lines = Corpus.open("embedded").test("devtest", "hi-en", n, 3, 12)
    return examples(tokenizer, load().instruction("hi-en"), lines.source.tolist(), lines.target.tolist())


def timed(f):
    start = time.perf_counter(); f()
    return time.perf_counter() - start


def peak(f):
    "Resident bytes before, and the most above them while `f` runs."
    def resident(key): return 1024 * int(re.search(rf"^{key}:\s+(\d+)", Path("/proc/self/status").read_text(), re.M)[1])
    Path("/proc/self/clear_refs").write_text("5")       # the high-water mark is now what is resident
    before = resident("VmRSS"); f()
    return dict(baseline=before, peak=resident("VmHWM") - before)


@torch.inference_mode()
def bare(decoder, config, sequences, batch_size, shared):
    ids = sorted((e.ids for e in sequences), key=len)
    same = min(common_prefix(ids), min(e.source.start for e in sequences)) if shared else 0
    for i in range(0, len(ids), batch_size):
        batch = [x[same:] for x in ids[i:i + batch_size]]
        cache = None
        if same:
            cache = DynamicCache(config=config)
            decoder(input_ids=torch.tensor([ids[0][:same]]), past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(batch))
        decoder(input_ids=torch.tensor([x + [0] * (max(map(len, batch)) - len(x)) for x in batch]), past_key_values=cache, use_cache=bool(same))


@torch.inference_mode()
def usual(model, sequences):
    for e in sequences:
        ids = torch.tensor([e.ids + [0] * (1024 - len(e.ids))])
        for _ in range(4): model(input_ids=ids, attention_mask=(torch.arange(1024) < len(e.ids)).long()[None], output_hidden_states=True, use_cache=False)


def recorder(n, times, kept, chunk):
    "Memory of recording `times` times the same n sentences, with features kept in memory or written."
    model, tokenizer = random_model(WIDE)
    few = pairs(tokenizer, n)
    with tempfile.TemporaryDirectory() as out:
        how = dict(batch_size=BATCH, chunk=chunk, out=None if kept else out)
        record(model, tokenizer, few[:BATCH], **how)     # warm
        return dict(sentences=n * times, kept=kept) | peak(lambda: record(model, tokenizer, few * times, **how))


def all_pairs():
    "Time and memory of CKA."
    features = [np.random.default_rng(i).normal(size=(CKA["sentences"], CKA["d"])).astype(np.float32) for i in range(CKA["models"])]
    stack, seconds = [f + .1 * k for f in features for k in range(CKA["depths"])], []
    return CKA | peak(lambda: seconds.append(timed(lambda: cka_pairs(stack)))) | dict(seconds=seconds[0], matrices=len(stack) * CKA["sentences"] ** 2 * 4)


def main(
    model: Annotated[Path, typer.Option(help="A checkpoint; default: random, of SmolLM2-135M's shape.")] = None,
    sentences: Annotated[int, typer.Option(min=8)] = 128,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    repeat: Annotated[int, typer.Option(min=1, help="Best of so many.")] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    cka: Annotated[bool, typer.Option(help="All pairs of 9 models x 37 depths x 1000 sentences x 2048.")] = True,
    memory_: Annotated[bool, typer.Option("--memory/--no-memory", help="The recorder's memory over the number of sentences.")] = True,
    memory_sentences: Annotated[int, typer.Option(min=1, max=900, help="Sentences of the smallest of them; the largest has 16 times as many.")] = 256,
    chunk: Annotated[int, typer.Option(min=1, help="Sentences whose features the recorder holds at once, there.")] = 64,
    only: Annotated[str, typer.Option(hidden=True)] = "",
    json_: Annotated[Path, typer.Option("--json", help="Write the numbers here.")] = None,
):
    "Measure recording and CKA against their limits."
    torch.set_num_threads(threads); os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if only:
        times, _, kept = only.partition(" ")
        return print("RESULT " + json.dumps(all_pairs() if only == "cka" else recorder(memory_sentences, int(times), bool(kept), chunk)))
    def fresh(what, **env):
        said = subprocess.run([sys.executable, __file__, *map(str, ("--only", what, "--memory-sentences", memory_sentences, "--chunk", chunk, "--threads", threads))], stdout=subprocess.PIPE, text=True, check=True, env=os.environ | env)
        return json.loads(said.stdout.rpartition("RESULT ")[2])
    from merge import machine
    options = dict(model=model and str(model), sentences=sentences, batch_size=batch_size, repeat=repeat, threads=threads, memory_sentences=memory_sentences, chunk=chunk)
    r = dict(machine=machine(), options=options, measured={}, judged={})
    measured, judged, table = r["measured"], r["judged"], []
    def row(what, seconds=None, mb=None, ratio=None): table.append([what, seconds, mb, ratio, None, None])
    def judge(what, limit, value, met):
        judged[what] = dict(limit=limit, value=value, met=met)
        table[-1][-2:] = limit, {True: "met", False: "MISSED", None: "not judged"}[met]
    if memory_:
        one, runs = 2 * (WIDE["num_hidden_layers"] + 2) * WIDE["hidden_size"] * 4, [fresh(what, MALLOC_MMAP_THRESHOLD_="262144") for what in ("1", "4", "16", "4 kept")]    # bytes of a sentence's features
        peaks = [x["peak"] for x in runs if not x["kept"]]
        measured["memory"] = dict(runs=[x | dict(features=one * x["sentences"]) for x in runs], model=WIDE, batch_size=BATCH, chunk_features=one * chunk, slack=SLACK, growth=max(peaks) - peaks[0], features_grow=15 * one * memory_sentences)
    if cka: measured["cka"] = fresh("cka")
    lm, tokenizer = load_model(model) if model else random_model(SMOL)
    seqs = pairs(tokenizer, sentences)
    r["model"] = f"{'' if model else 'random '}{lm.config.model_type}, {sum(p.numel() for p in lm.parameters()) / 1e6:.0f} M parameters"
    for part in ("machine", "options"): print("  ".join(f"{k} {x}" for k, x in r[part].items()))
    print(f"{r['model']}, {len(seqs)} sequences of {np.mean([len(e.ids) for e in seqs]):.0f} tokens\n")
    works = {name: lambda s=s: bare(lm.get_decoder(), lm.config, seqs, batch_size, s) for name, s in (("bare forward pass", True), ("bare, beginning not shared", False))} | {"record": lambda: record(lm, tokenizer, seqs, batch_size=batch_size)}
    record(lm, tokenizer, seqs[:8], batch_size=batch_size)     # warm
    rounds = [{name: timed(f) for name, f in works.items()} for _ in range(repeat)]
    for name in works: measured[name] = dict(seconds=min(x[name] for x in rounds), all=[x[name] for x in rounds])
    measured["usual way"] = dict(seconds=timed(lambda: usual(lm, seqs[:FEW])) / FEW * len(seqs), extrapolated_from=FEW)
    ours, forward, published = (measured[k]["seconds"] for k in ("record", "bare forward pass", "usual way"))
    for name in works: row(name, measured[name]["seconds"], ratio=measured[name]["seconds"] / forward)
    judge("record", f"at most {RECORD} bare passes", ours / forward, ours <= RECORD * forward)
    row(f"usual way (EXTRAPOLATED from {FEW} sentences) / record", published, ratio=published / ours)
    judge("usual way", f"record at least {USUAL} times less", published / ours, published >= USUAL * ours)
    if cka:
        c = measured["cka"]
        row(f"CKA, all pairs of {c['models']} models x {c['depths']} depths", c["seconds"], c["peak"] / 1e6)
        judge("cka", f"under {CKA_S} s on two cores", c["seconds"], c["seconds"] < CKA_S if threads == 2 else None)
        row("number of features x n^2 x 4 bytes", mb=c["matrices"] / 1e6)
    if memory_:
        m = measured["memory"]
        for x in m["runs"]: row(f"peak, {x['sentences']} sentences{' kept in memory' if x['kept'] else ''} (features {x['features'] / 1e6:.1f} MB)", mb=x["peak"] / 1e6)
        row(f"growth of the peak (features grow by {m['features_grow'] / 1e6:.1f} MB)", mb=m["growth"] / 1e6)
        allowed = m["chunk_features"] + SLACK
        judge("memory", f"below a chunk's features, {m['chunk_features'] / 1e6:.1f} MB, + {SLACK / 1e6:.0f} MB", m["growth"], m["growth"] < allowed if allowed < m["features_grow"] else None)
    print(tabulate(table, headers=["", "s", "MB", "ratio", "limit", ""], tablefmt="github", floatfmt=".2f", missingval=""))
    if json_: write_json(json_, r)


if __name__ == "__main__": typer.run(main)
