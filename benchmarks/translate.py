"""Sentences a second of our greedy loop, beside plain `generate` in arrival order and beside CTranslate2 with its conversion counted.

    python benchmarks/translate.py --model DIR           # a checkpoint with its tokenizer, for example an expert of the laptop study
    python benchmarks/translate.py                       # a random model of SmolLM2-135M's shape, with the miniature's tokenizer
    python benchmarks/translate.py --model DIR --lines 100 --json result.json

Every engine runs in a process of its own on the same sentences, prompts and limits, one thread each, float32; loading is not counted, CTranslate2's conversion
is (and shown apart). A random model never stops by itself: all its sentences run to their limit, which favours nobody. Texts that differ from ours are counted.
"""
import json, os, resource, subprocess, sys, tempfile, time
from pathlib import Path
from typing import Annotated

import typer

LIMITS = dict(generate=3., ctranslate2=1.)     # ours at least so many times faster


def random_checkpoint(folder):
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from mmtmerge.core import root
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(root() / "mmtmerge/data/miniature")
    tokenizer.bos_token = tokenizer.eos_token      # CTranslate2 wants one of a Llama
    LlamaForCausalLM(LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
                                 eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def plain(folder, instruction, sources, p):
    "Transformers' generate, batches as the sentences come."
    import torch
    from mmtmerge.models import load_model
    from mmtmerge.translate import ask, read
    model, tokenizer = load_model(folder)
    asked, limits, stops = ask(tokenizer, instruction, sources, p)
    started, out = time.time(), []
    for at in range(0, len(asked), p.decode_batch):
        rows, most = asked[at:at + p.decode_batch], limits[at:at + p.decode_batch]
        longest = max(map(len, rows))
        ids = torch.tensor([[stops[0]] * (longest - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
        with torch.inference_mode(): new = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=max(most), eos_token_id=stops, pad_token_id=stops[0])[:, longest:].tolist()
        for row, limit in zip(new, most):
            end = next((i for i, t in enumerate(row) if t in stops), len(row))
            out.append(row[:min(end, limit)])
    return read(tokenizer, out, limits, started), 0.


def one(engine, folder, lines, direction, batch):
    import torch
    torch.set_num_threads(1)
    from mmtmerge.corpus.embedded import Corpus
    from mmtmerge.engines import open_engine
    from mmtmerge.settings import load
    study = load("laptop")
    if batch: study.p.decode_batch = batch
    sources, instruction = Corpus.open("embedded").test("devtest", direction, lines, study.p.min_words, study.p.max_words).source.tolist(), study.instruction(direction)
    if engine == "generate": done, extra = plain(folder, instruction, sources, study.p)
    else:
        began = time.time()
        opened = open_engine(engine, folder, "float32")
        extra = time.time() - began if engine == "ctranslate2" else 0.     # converts, for the cache is new
        done = opened.translate(instruction, sources, study.p)
    print("RESULT " + json.dumps(dict(seconds=done.seconds, conversion=extra, texts=done.texts, tokens=sum(done.new_tokens), peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)))


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
    if only: return one(only, model, lines, direction, batch)
    from mmtmerge.merge.checkpoint_reader import Checkpoint
    with tempfile.TemporaryDirectory() as work:
        folder = model or Path(work) / "random"
        if not model: random_checkpoint(folder)
        weights, results = Checkpoint(folder), {}
        called = f"{'' if model else 'random '}{weights.config['model_type']}, {sum(t.numel() for t in weights.headers.values()) / 1e6:.0f} M parameters"
        for engine in ("transformers", "generate", "ctranslate2"):
            for i in range(repeat):
                said = subprocess.run([sys.executable, __file__, "--only", engine, "--model", folder, "--lines", str(lines), "--direction", direction, "--batch", str(batch)], capture_output=True, text=True,
                                      env=os.environ | dict(MMTMERGE_CACHE=f"{work}/cache-{i}", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1"))
                line = next((l for l in said.stdout.splitlines() if l.startswith("RESULT ")), None)
                if line is None: print(f"{engine}: {said.stderr.strip().splitlines()[-1]}"); break
                r = json.loads(line.removeprefix("RESULT "))
                if engine not in results or r["seconds"] + r["conversion"] < results[engine]["seconds"] + results[engine]["conversion"]: results[engine] = r
    ours = results["transformers"]
    print(f"{called}, {direction}, {lines} sentences, one thread, float32, best of {repeat}")
    for name, r in results.items():
        total = r["seconds"] + r["conversion"]
        words = f"{'ours' if name == 'transformers' else name:<12} {lines / total:6.2f} sentences/s  {r['peak'] / 1e9:.2f} GB"
        if r["conversion"]: words += f"  ({r['conversion']:.1f} s of conversion and loading; {lines / r['seconds']:.2f} without)"
        if name in LIMITS:
            ratio = total / ours["seconds"]
            r |= dict(ratio=ratio, limit=LIMITS[name], differ=sum(a != b for a, b in zip(ours["texts"], r["texts"])))
            words += f"  ours is {ratio:.2f} times as fast (limit {LIMITS[name]:g}: {'met' if ratio >= LIMITS[name] else 'missed'}); {r['differ']} texts differ"
        print(words)
    if json_:
        from merge import machine
        json_.write_text(json.dumps(dict(machine=machine(), model=called, direction=direction, lines=lines, repeat=repeat,
                                         engines={k: {n: v for n, v in r.items() if n != "texts"} for k, r in results.items()}), indent=1) + "\n")


if __name__ == "__main__": typer.run(main)
