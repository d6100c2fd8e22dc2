"""Sentences a second of our greedy loop, next to plain `generate` in arrival order, and to CTranslate2.

    python benchmarks/translate.py --model DIR    # a checkpoint with its tokenizer, such as an expert of the study
    python benchmarks/translate.py                # a random model of SmolLM2-135M's shape
    python benchmarks/translate.py --model DIR --lines 100 --json result.json

Every engine runs in a process of its own on the same sentences, prompts and limits, one thread each, float32.
Loading is not counted; CTranslate2's conversion is, and it is shown apart. A random model never stops by itself:
all its sentences run to their limit, which favours nobody. Texts that differ from ours are counted.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

LIMITS = dict(generate=3.0, ctranslate2=1.0)  # ours at least so many times faster
ENGINES = ("transformers", "generate", "ctranslate2")
RESULT = "RESULT "  # begins the line with a process's result
ONE_THREAD = dict(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")


def random_checkpoint(folder):
    "A random Llama of SmolLM2-135M's shape."
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from mmtmerge.core import root

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(root() / "mmtmerge/data/miniature")
    tokenizer.bos_token = tokenizer.eos_token  # CTranslate2 wants one of a Llama
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def cut(row, limit, stops):
    "New tokens up to the first stop, and at most so many."
    for end, token in enumerate(row[:limit]):
        if token in stops:
            return row[:end]
    return row[:limit]


def generate_plainly(folder, instruction, sources, p):
    "Transformers' generate, batches as the sentences come."
    import torch

    from mmtmerge.models import load_model
    from mmtmerge.translate import ask, read

    model, tokenizer = load_model(folder)
    asked, limits, stops = ask(tokenizer, instruction, sources, p)
    options = dict(do_sample=False, num_beams=1, eos_token_id=stops, pad_token_id=stops[0])
    started, out = time.time(), []
    for at in range(0, len(asked), p.decode_batch):
        rows = asked[at : at + p.decode_batch]
        most = limits[at : at + p.decode_batch]
        longest = max(map(len, rows))
        ids = torch.tensor([[stops[0]] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            written = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max(most), **options)
        for row, limit in zip(written[:, longest:].tolist(), most):
            out.append(cut(row, limit, stops))
    return read(tokenizer, out, limits, started)


def measure(engine, folder, lines, direction, batch):
    "Translate with one engine, and print what it took."
    import torch

    from mmtmerge.corpus.embedded import Corpus
    from mmtmerge.engines import open_engine
    from mmtmerge.settings import load

    torch.set_num_threads(1)
    study = load("laptop")
    p = study.p
    p.decode_batch = batch or p.decode_batch
    test = Corpus.open("embedded").test("devtest", direction, lines, p.min_words, p.max_words)
    sources, instruction = test.source.tolist(), study.instruction(direction)
    conversion = 0.0
    if engine == "generate":
        done = generate_plainly(folder, instruction, sources, p)
    else:
        began = time.time()
        opened = open_engine(engine, folder, "float32")
        if engine == "ctranslate2":
            conversion = time.time() - began  # it converts, for the cache is new
        done = opened.translate(instruction, sources, p)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = dict(seconds=done.seconds, conversion=conversion, texts=done.texts)
    print(RESULT + json.dumps(result | dict(tokens=sum(done.new_tokens), peak=peak)))


def measured(engine, folder, cache, options):
    "The result of an engine, measured in a process of its own; None if it fails, and why is printed."
    words = [sys.executable, __file__, "--only", engine, "--model", folder, *options]
    env = os.environ | ONE_THREAD | dict(MMTMERGE_CACHE=str(cache))
    said = subprocess.run(words, capture_output=True, text=True, env=env)
    for line in said.stdout.splitlines():
        if line.startswith(RESULT):
            return json.loads(line.removeprefix(RESULT))
    print(f"{engine}: {said.stderr.strip().splitlines()[-1]}")
    return None


def total(result):
    return result["seconds"] + result["conversion"]


def fastest(engine, folder, work, repeat, options):
    "The best of several results; None if the engine fails."
    results = []
    for i in range(repeat):
        result = measured(engine, folder, work / f"cache-{i}", options)
        if result is None:
            break
        results.append(result)
    return min(results, key=total, default=None)


def described(name, result, lines, ours):
    "A line about an engine; its ratio to ours and the limit are added to its result."
    called = "ours" if name == "transformers" else name
    words = f"{called:<12} {lines / total(result):6.2f} sentences/s  {result['peak'] / 1e9:.2f} GB"
    if result["conversion"]:
        without = lines / result["seconds"]
        words += f"  ({result['conversion']:.1f} s of conversion and loading; {without:.2f} without)"
    if name in LIMITS:
        ratio, limit = total(result) / ours["seconds"], LIMITS[name]
        differ = sum(a != b for a, b in zip(ours["texts"], result["texts"]))
        result |= dict(ratio=ratio, limit=limit, differ=differ)
        verdict = "met" if ratio >= limit else "missed"
        words += f"  ours is {ratio:.2f} times as fast (limit {limit:g}: {verdict}); {differ} texts differ"
    return words


def main(
    model: Annotated[Path, typer.Option(help="A checkpoint; default: random, of SmolLM2-135M's shape.")] = None,
    lines: Annotated[int, typer.Option(min=1)] = 500,
    direction: Annotated[str, typer.Option()] = "en-hi",
    batch: Annotated[int, typer.Option(help="Sentences a batch; default: the laptop profile's.")] = 0,
    repeat: Annotated[int, typer.Option(min=1, help="The best of so many.")] = 1,
    only: Annotated[str, typer.Option(hidden=True)] = "",
    json_: Annotated[Path, typer.Option("--json", help="Write the numbers here.")] = None,
):
    "Print sentences a second, ratios, peak memory and the limits they are judged against."
    if only:
        return measure(only, model, lines, direction, batch)
    from mmtmerge.merge.checkpoints import Checkpoint

    options = ["--lines", str(lines), "--direction", direction, "--batch", str(batch)]
    with tempfile.TemporaryDirectory() as work:
        folder = model or Path(work) / "random"
        if not model:
            random_checkpoint(folder)
        weights, results = Checkpoint(folder), {}
        millions = sum(tensor.numel() for tensor in weights.headers.values()) / 1e6
        kind = weights.config["model_type"]
        called = f"{'' if model else 'random '}{kind}, {millions:.0f} M parameters"
        for engine in ENGINES:
            result = fastest(engine, folder, Path(work), repeat, options)
            if result is not None:
                results[engine] = result
    print(f"{called}, {direction}, {lines} sentences, one thread, float32, best of {repeat}")
    for name, result in results.items():
        print(described(name, result, lines, results["transformers"]))
    if json_:
        from measuring import machine

        for result in results.values():
            del result["texts"]
        facts = dict(machine=machine(), model=called, direction=direction, lines=lines, repeat=repeat)
        json_.write_text(json.dumps(facts | dict(engines=results), indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
