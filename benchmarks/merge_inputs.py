"""Random bfloat16 checkpoints of known shapes: a base, and experts near it."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from mmtmerge.merge.checkpoint_reader import Checkpoint
from mmtmerge.merge.checkpoint_writer import plan_shards

SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
SIZES = {  # architecture, and the numbers that SHAPE names
    "smallest": ("qwen2", 32, 64, 1, 2, 1, 2048),
    "tiny": ("qwen2", 96, 288, 4, 4, 2, 8192),
    "135m": ("llama", 576, 1536, 30, 9, 3, 49152),
    "3b": ("qwen2", 2048, 11008, 36, 16, 2, 151936),
}
STD, NORM_STD = 0.02, 0.1  # of the base's weights, and of what its norms differ from 1
CHANGE = 0.05  # standard deviation of task vectors, as a share of the base's
SHARD = 10**9  # bytes of a file
SPECIAL = {"<s>": 0, "</s>": 1, "<unk>": 2}  # tokens
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}


class Family(NamedTuple):
    "What is merged."

    base: Path  # folder
    experts: list  # of folders
    parameters: int  # of each of them

    @property
    def name(self):
        return self.base.parent.name

    def first(self, count):
        "The same with fewer experts."
        return self._replace(experts=self.experts[:count])

    def __str__(self):
        return f"{self.name}, {len(self.experts)} experts"


def number_of_layers(size):
    return SIZES[size][1 + SHAPE.index("num_hidden_layers")]


def architecture(size, layers=None):
    "Configuration, and shapes of all parameters, a tied head left out."
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, *numbers = SIZES[size]
    shape = dict(zip(SHAPE, numbers))
    if layers:
        shape["num_hidden_layers"] = layers
    tokens = dict(bos_token_id=SPECIAL["<s>"], eos_token_id=SPECIAL["</s>"])
    config = AutoConfig.for_model(kind, **shape, **tokens, tie_word_embeddings=True, dtype="bfloat16")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    return config, {name: tuple(p.shape) for name, p in model.named_parameters()}


def count(shapes):
    "Number of parameters."
    return sum(map(math.prod, shapes.values()))


def random_tensor(
    name,
    shape,
    base=None,  # a checkpoint: the tensor is near its
):
    norm = name.endswith("norm.weight")
    deviation = NORM_STD if norm else STD
    if base:
        deviation *= CHANGE
    noise = torch.randn(shape).mul_(deviation)
    centre = base[name] if base else float(norm)
    return noise.add_(centre).bfloat16()


def write_weights(folder, shapes, base):
    "Write random tensors in shards, and their index."
    sizes = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
    shards, file_of = plan_shards(sizes, SHARD), {}
    for i, names in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        tensors = {name: random_tensor(name, shapes[name], base) for name in names}
        save_file(tensors, folder / file, {"format": "pt"})
        file_of |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 2 * count(shapes)}, "weight_map": file_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_tokenizer(folder):
    from tokenizers import Tokenizer, models

    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    Tokenizer(models.WordLevel(SPECIAL, unk_token="<unk>")).save(str(folder / "tokenizer.json"))


def make(
    folder,
    config,
    shapes,
    seed,
    base=None,  # a checkpoint: the weights are near its
):
    "Write a random checkpoint, unless it is there; its folder."
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    write_weights(folder, shapes, base)
    write_tokenizer(folder)
    config.save_pretrained(folder)  # the last: its presence says that the rest is whole
    return folder


def make_family(work, size, experts, layers=None):
    "A base and so many experts of one size."
    config, shapes = architecture(size, layers)
    folder = work / f"{size}-{config.num_hidden_layers}"
    base = make(folder / "base", config, shapes, 0)
    weights = Checkpoint(base)
    folders = [make(folder / f"expert{i}", config, shapes, i, weights) for i in range(1, experts + 1)]
    return Family(base, folders, count(shapes))
