"""How long recording takes, beside a bare forward pass and beside the usual way, and CKA of all pairs at the paper's size.

    python benchmarks/probe.py                       # a random model of SmolLM2-135M's shape
    python benchmarks/probe.py --model DIR           # a checkpoint
    python benchmarks/probe.py --sentences 32 --no-cka

A bare pass is the decoder without its head over the same batches: length-sorted, the shared beginning of the prompts computed once, as `record` does;
`unshared` is the same without sharing. The usual way of published code is one pass a probe (neurons, CKA) and span (source, target), with the head, each
sequence padded to 1024; it is timed on a few sentences and extrapolated, and said so. Memory is that of the process.
"""
import platform, resource, time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from transformers import AutoTokenizer, DynamicCache, LlamaConfig, LlamaForCausalLM

from mmtmerge.core import root
from mmtmerge.data import Corpus
from mmtmerge.geometry import cka_pairs
from mmtmerge.models import load_model
from mmtmerge.record import examples, record
from mmtmerge.settings import load
from mmtmerge.translate import common_prefix


def timed(f, repeat=1):
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter(); f(); best = min(best, time.perf_counter() - start)
    return best


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


def main(
    model: Annotated[Path, typer.Option(help="A checkpoint; default: random, of SmolLM2-135M's shape.")] = None,
    sentences: Annotated[int, typer.Option(min=8)] = 128,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    repeat: Annotated[int, typer.Option(min=1, help="Best of so many.")] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    cka: Annotated[bool, typer.Option(help="All pairs of 9 models x 37 depths x 1000 sentences x 2048.")] = True,
):
    "Measure recording and CKA against their limits."
    torch.set_num_threads(threads)
    if model: lm, tokenizer = load_model(model)
    else:
        tokenizer = AutoTokenizer.from_pretrained(root() / "mmtmerge/data/miniature")
        lm = LlamaForCausalLM(LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True)).eval()
    study = load()
    lines = Corpus.open("embedded").test("devtest", "hi-en", sentences, 3, 12)
    seqs = examples(tokenizer, study.instruction("hi-en"), lines.source.tolist(), lines.target.tolist())
    print(f"{platform.processor() or platform.machine()}, {threads} threads, torch {torch.__version__}, {sum(p.numel() for p in lm.parameters()) / 1e6:.0f} M parameters, {len(seqs)} sequences of {np.mean([len(e.ids) for e in seqs]):.0f} tokens, batches of {batch_size}")
    decoder = lm.get_decoder()
    record(lm, tokenizer, seqs[:8], batch_size=batch_size)     # warm
    forward, unshared = (timed(lambda s=s: bare(decoder, lm.config, seqs, batch_size, s), repeat) for s in (True, False))
    ours = timed(lambda: record(lm, tokenizer, seqs, batch_size=batch_size), repeat)
    few = seqs[:2]
    published = timed(lambda: usual(lm, few)) / len(few) * len(seqs)
    rows = [("record", ours, None, ""), ("bare forward pass", forward, ours / forward, "at most 1.25"), ("bare, beginning not shared", unshared, ours / unshared, ""), (f"usual way (extrapolated from {len(few)})", published, published / ours, "at least 4")]
    for name, seconds, ratio, limit in rows: print(f"{name:<38} {seconds:8.2f} s" + (f"  ratio {ratio:6.2f}  limit {limit}" if ratio else ""))
    if cka:
        features = [np.random.default_rng(i).normal(size=(1000, 2048)).astype(np.float32) for i in range(9)]
        stack = [f + .1 * k for f in features for k in range(37)]
        print(f"{'CKA, all pairs of 9 models x 37 depths':<38} {timed(lambda: cka_pairs(stack)):8.2f} s  limit 60")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__": typer.run(main)
