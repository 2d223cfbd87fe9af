"""Makes a tiny Llama with random weights and a tokenizer of its own, so that nothing has to be downloaded.

    build/vllm-0.32.0/venv/bin/python tools/make_tiny_model.py build/tiny-model
    ... --embedding build/tiny-embedder         a model for `vllm serve --runner pooling`
    ... --lora build/tiny-lora                  a LoRA adapter for the first

Runs in vLLM's environment, for its torch, transformers and tokenizers. The weights come from a fixed seed. It says
nothing when the model is there already; a model is written aside and moved into place in one step.
"""

# ruff: noqa: PLC0415 -- loading torch takes seconds, and a run that finds the model there needs none of it

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECIPE = 1
"""Raise it when what is written changes: models made by an older recipe are rebuilt."""
SEED = 20_26
VOCABULARY, HIDDEN, LAYERS, HEADS, POSITIONS = 512, 256, 4, 4, 4096
LORA_RANK = 8
SPECIAL = ("<pad>", "<s>", "</s>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TRAINING_TEXT = [
    "the quick brown fox jumps over the lazy dog and then it rests in the warm sun for a while",
    "every request gets its share of the time, the energy and the money that the machine has used",
    "user: how much did this answer cost? assistant: about one millionth of a dollar, give or take nothing",
    "the rows add up to the meter, as integers, and what nobody used stands on a row of its own",
    "One, two, three, four, five, six, seven, eight, nine, ten. 0123456789 + - * / = ( ) [ ] { }",
]


def write_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE tokenizer on a few sentences: any text can be encoded, whatever its language."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    pad, bos, eos = SPECIAL
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos)
    fast.model_max_length = POSITIONS
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def _config() -> Any:  # noqa: ANN401 -- transformers is not there when the types are checked
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )


def write_chat_model(folder: Path) -> None:
    """Write a causal language model: weights, tokenizer, chat template, generation defaults."""
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    LlamaForCausalLM(_config()).to(torch.float32).save_pretrained(folder)
    GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0).save_pretrained(folder)
    write_tokenizer(folder)


def write_embedding_model(folder: Path) -> None:
    """Write the same model without its head, which vLLM serves for embeddings."""
    import torch
    from transformers import LlamaModel

    torch.manual_seed(SEED)
    LlamaModel(_config()).to(torch.float32).save_pretrained(folder)
    write_tokenizer(folder)


def write_lora(folder: Path) -> None:
    """Write a LoRA adapter (rank 8, on the attention's query and value) in the layout of PEFT."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED)
    weights = {}
    for layer in range(LAYERS):
        for name in ("q_proj", "v_proj"):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{prefix}.lora_A.weight"] = torch.randn(LORA_RANK, HIDDEN, generator=generator) * 0.05
            weights[f"{prefix}.lora_B.weight"] = torch.randn(HIDDEN, LORA_RANK, generator=generator) * 0.05
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-model",
        "r": LORA_RANK,
        "lora_alpha": 2 * LORA_RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def make(folder: Path, kind: str, write: Callable[[Path], None]) -> None:
    """Write a model beside `folder` and move it there, unless this recipe has been there already."""
    stamp = {"recipe": RECIPE, "kind": kind}
    try:
        if json.loads((folder / "made_by.json").read_text()) == stamp:
            return
    except (OSError, ValueError):
        pass
    folder.parent.mkdir(parents=True, exist_ok=True)
    from transformers.utils import logging

    logging.disable_progress_bar()
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(temporary)
        (temporary / "made_by.json").write_text(json.dumps(stamp) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError:
        if not (folder / "made_by.json").exists():  # else another run was faster, with the same result
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"[model] ready: {os.path.relpath(folder)} ({kind})", file=sys.stderr)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("dir", nargs="?", type=Path, help="where to make the chat model")
    parser.add_argument("--embedding", type=Path, metavar="DIR", help="where to make the embedding model")
    parser.add_argument("--lora", type=Path, metavar="DIR", help="where to make the LoRA adapter")
    given = parser.parse_args()
    if not (given.dir or given.embedding or given.lora):
        parser.error("name at least one folder to write to")
    for folder, kind, write in (
        (given.dir, "chat", write_chat_model),
        (given.embedding, "embedding", write_embedding_model),
        (given.lora, "lora", write_lora),
    ):
        if folder is not None:
            make(folder.resolve(), kind, write)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
