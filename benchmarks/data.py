"""Tokenising millions of pairs into memory-mapped Arrow: pairs a second and peak memory.

    python benchmarks/data.py                        # 5 million pairs, the miniature's tokenizer
    python benchmarks/data.py --pairs 200000 --workers 1

Pairs are made of the embedded corpus, numbered so that no two are equal, and written as parquet shards with
Samanantar's layout and columns; then they are read, shuffled and tokenised as a fine-tuning does it. Memory is the
largest sum over the process and its workers of memory that is not mapped from files (and with the mapped pages
besides): it must not grow with the number of pairs.
"""

import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

LIMIT_GB = 4.0
SHARD = 100_000  # pairs in a file
MAX_TOKENS = 1024  # of an example


def numbered(texts, numbers):
    return [f"{text} {number}" for text, number in zip(texts, numbers)]


def synthesise(folder, pairs):
    "Write so many pairs as Samanantar's files."
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mmtmerge.corpus.embedded import Corpus

    rows = Corpus.open("embedded").train("en-hi", min_words=4)
    source, target = rows.source.to_numpy(), rows.target.to_numpy()
    folder.mkdir(parents=True)
    shards = -(-pairs // SHARD)
    for shard in range(shards):
        first = shard * SHARD
        numbers = list(range(first, min(first + SHARD, pairs)))
        drawn = [number % len(rows) for number in numbers]
        columns = dict(idx=numbers, src=numbered(source[drawn], numbers), tgt=numbered(target[drawn], numbers))
        pq.write_table(pa.table(columns), folder / f"train-{shard:05d}-of-{shards:05d}.parquet")


def anonymous_memory(process, memory):
    "Bytes of a process that are not mapped from files."
    if not hasattr(memory, "pss"):
        return memory.uss
    with open(f"/proc/{process.pid}/smaps_rollup") as rollup:
        lines = [line for line in rollup if line.startswith("Anonymous")]
    return sum(int(line.split()[1]) * 1024 for line in lines)


def watch(peak, ended):
    "Keep the highest memory of this process and its workers, until the event is set."
    me = psutil.Process()
    while not ended.wait(0.2):
        anonymous = whole = 0
        for process in [me, *me.children(recursive=True)]:
            try:
                memory = process.memory_full_info()
            except psutil.Error:
                continue
            anonymous += anonymous_memory(process, memory)
            whole += getattr(memory, "pss", memory.uss)
        peak["anonymous"] = max(peak["anonymous"], anonymous)
        peak["whole"] = max(peak["whole"], whole)


def timed(function, *args):
    "What a function gives, and the seconds that it took."
    began = time.time()
    result = function(*args)
    return result, time.time() - began


def total_length(tokens):
    return int(tokens.with_format("numpy")["length"][:].sum())


def measure(work, pairs, workers):
    "Make the pairs, read them and tokenise them; the numbers by name."
    from transformers import AutoTokenizer

    from mmtmerge.core import root
    from mmtmerge.corpus.open import open_corpus
    from mmtmerge.settings import load
    from mmtmerge.training.loss import examples

    _, made_s = timed(synthesise, work / "samanantar" / "hi", pairs)
    parquet = sum(f.stat().st_size for f in work.rglob("*.parquet"))
    print(f"{pairs:,} pairs, {parquet / 1e9:.2f} GB of parquet, made in {made_s:.0f} s")
    corpus = open_corpus("samanantar", workers)
    corpus.spec["train"] = str(work / "samanantar")
    tokenizer = AutoTokenizer.from_pretrained(root() / "mmtmerge/data/miniature")
    instruction = load("paper").instruction("en-hi")

    peak, ended = dict(anonymous=0, whole=0), threading.Event()
    threading.Thread(target=watch, args=(peak, ended), daemon=True).start()
    rows, read_s = timed(corpus.train, "en-hi")
    tokens, tokenise_s = timed(examples, tokenizer, instruction, rows, MAX_TOKENS, work / "tokens", workers)
    total, summed_s = timed(total_length, tokens)
    ended.set()

    arrow = sum(f.stat().st_size for f in (work / "tokens").glob("*.arrow"))
    return dict(
        pairs=pairs,
        workers=workers,
        read_s=read_s,
        tokenise_s=tokenise_s,
        summed_s=summed_s,
        pairs_per_second=pairs / tokenise_s,
        tokens=total,
        peak=peak,
        arrow_bytes=arrow,
    )


def report(measured):
    "The numbers as two sentences, and the limit they are judged against."
    tokens_per_second = measured["tokens"] / measured["tokenise_s"]
    print(
        f"read and shuffled in {measured['read_s']:.0f} s; "
        f"tokenised by {measured['workers']} processes in {measured['tokenise_s']:.0f} s: "
        f"{measured['pairs_per_second']:,.0f} pairs/s, {tokens_per_second:,.0f} tokens/s; "
        f"lengths summed in {measured['summed_s']:.1f} s; {measured['arrow_bytes'] / 1e9:.2f} GB of Arrow"
    )
    own, mapped = measured["peak"]["anonymous"] / 1e9, measured["peak"]["whole"] / 1e9
    verdict = "met" if own <= LIMIT_GB else "missed"
    print(
        f"peak memory {own:.2f} GB of its own, {mapped:.2f} GB with mapped pages "
        f"(limit {LIMIT_GB:g} GB of its own: {verdict})"
    )


def main(
    pairs: Annotated[int, typer.Option(min=1000)] = 5_000_000,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count(),
    json_: Annotated[Path, typer.Option("--json", help="Write the numbers here.")] = None,
):
    "Print pairs a second and peak memory, and the limit it is judged against."
    with tempfile.TemporaryDirectory() as work:
        # before the library is imported, which reads it once
        os.environ |= dict(HF_DATASETS_CACHE=f"{work}/cache", TOKENIZERS_PARALLELISM="false")
        measured = measure(Path(work), pairs, workers)
    report(measured)
    if json_:
        from measuring import machine

        del measured["summed_s"]
        numbers = dict(machine=machine(), limit_gb=LIMIT_GB, **measured)
        json_.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
