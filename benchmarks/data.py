"""Tokenising millions of pairs into memory-mapped Arrow: pairs a second and peak memory.

    python benchmarks/data.py                        # 5 million pairs, the miniature's tokenizer
    python benchmarks/data.py --pairs 200000 --workers 1

Pairs are made of the embedded corpus, numbered so that no two are equal, and written as parquet shards with Samanantar's layout and columns; then they are read,
shuffled and tokenised as a fine-tuning does it. Memory is the largest sum over the process and its workers of memory that is not mapped from files (and with the
mapped pages besides): it must not grow with the number of pairs.
"""
import json, os, tempfile, threading, time
from pathlib import Path
from typing import Annotated

import psutil
import typer

LIMIT_GB = 4.


def synthesise(folder, pairs, shard=100_000):
    import pyarrow as pa, pyarrow.parquet as pq
    from mmtmerge.corpus.embedded import Corpus
    rows = Corpus.open("embedded").train("en-hi", min_words=4)
    folder.mkdir(parents=True)
    shards = -(-pairs // shard)
    for s in range(shards):
        n = min(shard, pairs - s * shard)
        at = [(s * shard + i) % len(rows) for i in range(n)]
        source, target = (rows[c].to_numpy()[at] for c in ("source", "target"))
        numbered = lambda texts: [f"{t} {s * shard + i}" for i, t in enumerate(texts)]
        pq.write_table(pa.table(dict(idx=list(range(s * shard, s * shard + n)), src=numbered(source), tgt=numbered(target))), folder / f"train-{s:05d}-of-{shards:05d}.parquet")


def watch(peak, ended):
    me = psutil.Process()
    while not ended.wait(.2):
        anonymous = whole = 0
        for p in [me, *me.children(recursive=True)]:
            try: m = p.memory_full_info()
            except psutil.Error: continue
            anonymous += m.uss if not hasattr(m, "pss") else sum(int(l.split()[1]) * 1024 for l in open(f"/proc/{p.pid}/smaps_rollup") if l.startswith("Anonymous"))
            whole += getattr(m, "pss", m.uss)
        peak["anonymous"], peak["whole"] = max(peak["anonymous"], anonymous), max(peak["whole"], whole)


def main(
    pairs: Annotated[int, typer.Option(min=1000)] = 5_000_000,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count(),
    json_: Annotated[Path, typer.Option("--json", help="Write the numbers here.")] = None,
):
    "Print pairs a second and peak memory, and the limit it is judged against."
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        os.environ |= dict(HF_DATASETS_CACHE=str(work / "cache"), TOKENIZERS_PARALLELISM="false")
        from mmtmerge.corpus import hub as corpora
        from mmtmerge.core import root
        from mmtmerge.training.finetune import examples
        from mmtmerge.settings import load
        from transformers import AutoTokenizer
        began = time.time(); synthesise(work / "samanantar" / "hi", pairs)
        print(f"{pairs:,} pairs, {sum(f.stat().st_size for f in work.rglob('*.parquet')) / 1e9:.2f} GB of parquet, made in {time.time() - began:.0f} s")
        described = corpora.open_corpus("samanantar", workers)
        described.spec["train"] = str(work / "samanantar")
        tokenizer, instruction = AutoTokenizer.from_pretrained(root() / "mmtmerge/data/miniature"), load("paper").instruction("en-hi")
        peak, ended = dict(anonymous=0, whole=0), threading.Event()
        threading.Thread(target=watch, args=(peak, ended), daemon=True).start()
        began = time.time(); rows = described.train("en-hi"); read = time.time() - began
        began = time.time(); tokens = examples(tokenizer, instruction, rows, 1024, work / "tokens", workers); made = time.time() - began
        began = time.time(); total = int(tokens.with_format("numpy")["length"][:].sum()); summed = time.time() - began
        ended.set()
        disk = sum(f.stat().st_size for f in (work / "tokens").glob("*.arrow"))
    print(f"read and shuffled in {read:.0f} s; tokenised by {workers} processes in {made:.0f} s: {pairs / made:,.0f} pairs/s, {total / made:,.0f} tokens/s; lengths summed in {summed:.1f} s; {disk / 1e9:.2f} GB of Arrow")
    met = peak["anonymous"] / 1e9 <= LIMIT_GB
    print(f"peak memory {peak['anonymous'] / 1e9:.2f} GB of its own, {peak['whole'] / 1e9:.2f} GB with mapped pages (limit {LIMIT_GB:g} GB of its own: {'met' if met else 'missed'})")
    if json_:
        from merge import machine
        json_.write_text(json.dumps(dict(machine=machine(), limit_gb=LIMIT_GB, pairs=pairs, workers=workers, read_s=read, tokenise_s=made, pairs_per_second=pairs / made, tokens=total, peak=peak, arrow_bytes=disk), indent=1) + "\n")


if __name__ == "__main__": typer.run(main)
