"""Byte-level BPE tokenizers of the Qwen2 kind: load, read as bytes, train.

Also writes the tiny model's directory, all but its weights.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mirl_jax.policy.directory import write_json

SPECIAL_TOKENS = (
  "<|endoftext|>",
  "<|im_start|>",
  "<|im_end|>",
  "<|vision_start|>",
  "<|vision_end|>",
  "<|vision_pad|>",
  "<|image_pad|>",
  "<|video_pad|>",
)
# Qwen's own template opens with a system message of 14 tokens; this has none.
CHAT_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for part in message['content'] %}{% if part['type'] == 'image' %}\
<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}\
{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def _transformers() -> Any:
  # Importing it takes seconds, and without torch it prints that it has no
  # models; tokenizers are all that is wanted of it.
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  import transformers

  return transformers


def load_tokenizer(folder: Path) -> Any:
  """The tokenizer of a local Hugging Face directory; no network.

  vocab.json and merges.txt do where there is no tokenizer.json.

  Raises:
    ValueError: where the directory holds none.
  """
  names = ("tokenizer.json", "vocab.json", "merges.txt")
  whole, vocab, merges = ((folder / name).is_file() for name in names)
  if not whole and not (vocab and merges):
    raise ValueError(
      f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json "
      "with merges.txt"
    )
  return _transformers().AutoTokenizer.from_pretrained(
    str(folder), local_files_only=True
  )


def _byte_of_character() -> dict[str, int]:
  """Byte-level BPE's map of characters to bytes.

  Printable Latin-1 bytes stand for themselves; the others, in order, are
  written as the characters from 256 on.
  """
  printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
  table = {chr(byte): byte for byte in printable}
  others = (byte for byte in range(256) if byte not in printable)
  table.update({chr(256 + i): byte for i, byte in enumerate(others)})
  return table


def token_bytes(tokenizer: Any, vocab: int) -> list[bytes]:
  """The bytes that each id adds to the text.

  Added tokens add their literal content; ids that the tokenizer does not know
  add nothing.

  Args:
    tokenizer: a byte-level BPE tokenizer of transformers.
    vocab: number of ids of the model.

  Raises:
    ValueError: where the tokenizer has more ids than the model, or is not
      byte-level.
  """
  table = _byte_of_character()
  added = {
    id_: token.content for id_, token in tokenizer.added_tokens_decoder.items()
  }
  ids = tokenizer.get_vocab()
  largest = max([*ids.values(), *added])
  if largest >= vocab:
    raise ValueError(
      f"the tokenizer has an id {largest}, but config.json's vocab_size is "
      f"{vocab}; they belong to different models"
    )
  out = [b""] * vocab
  for text, id_ in ids.items():
    if id_ in added:
      continue
    try:
      out[id_] = bytes(table[character] for character in text)
    except KeyError as error:
      raise ValueError(
        f"token {id_} ({text!r}) is not written in byte-level BPE's alphabet; "
        "only byte-level tokenizers are supported"
      ) from error
  for id_, text in added.items():
    out[id_] = text.encode()
  return out


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
  """Trains a byte-level BPE that is a Qwen2 tokenizer in all but its merges.

  Normalisation, pre-tokenisation and special tokens are Qwen2's; merged
  tokens come first, special tokens last. The same texts in the same order
  give the same tokenizer.

  Args:
    texts: read once.
    vocab_size: number of ids, special tokens included; poor texts yield
      fewer.

  Returns:
    A tokenizer of transformers; `save_pretrained(directory)` writes it as
    ordinary files, and `len()` is its number of ids.

  Raises:
    ValueError: where vocab_size cannot hold every byte and special token.
  """
  smallest = 256 + len(SPECIAL_TOKENS)
  if vocab_size < smallest:
    raise ValueError(
      f"vocab_size {vocab_size} is too small: 256 bytes and "
      f"{len(SPECIAL_TOKENS)} special tokens need {smallest}"
    )
  from tokenizers import AddedToken, models, pre_tokenizers, trainers

  qwen2 = _transformers().Qwen2Tokenizer
  bpe = qwen2().backend_tokenizer
  bpe.model = models.BPE()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size - len(SPECIAL_TOKENS),
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  bpe.train_from_iterator(texts, trainer)
  model = json.loads(bpe.to_str())["model"]
  first = len(model["vocab"])
  special = {
    first + i: AddedToken(text, special=True, normalized=False)
    for i, text in enumerate(SPECIAL_TOKENS)
  }
  return qwen2(
    vocab=model["vocab"],
    merges=[tuple(pair) for pair in model["merges"]],
    added_tokens_decoder=special,
    unk_token=None,
    eos_token="<|im_end|>",
    pad_token="<|endoftext|>",
    additional_special_tokens=list(SPECIAL_TOKENS),
  )


def save_tokenizer(
  tokenizer: Any, folder: Path, chat_template: str = CHAT_TEMPLATE
) -> None:
  """Writes a tokenizer of `train_tokenizer` as files like Qwen's own.

  Args:
    tokenizer: to write.
    folder: an existing directory.
    chat_template: Jinja source.
  """
  tokenizer.save_pretrained(str(folder))
  # transformers 4 cannot read the tokenizer_config.json that 5 writes; both
  # read one laid out like Qwen's on the hub.
  added = {
    str(id_): {
      "content": token.content,
      "lstrip": False,
      "normalized": False,
      "rstrip": False,
      "single_word": False,
      "special": True,
    }
    for id_, token in sorted(tokenizer.added_tokens_decoder.items())
  }
  config = {
    "add_bos_token": False,
    "add_prefix_space": False,
    "added_tokens_decoder": added,
    "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
    "bos_token": None,
    "chat_template": chat_template,
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "errors": "replace",
    "model_max_length": 32768,
    "pad_token": "<|endoftext|>",
    "split_special_tokens": False,
    "tokenizer_class": "Qwen2Tokenizer",
    "unk_token": None,
  }
  write_json(folder / "tokenizer_config.json", config)


def _with_role_names(texts: Iterable[str]) -> Iterator[str]:
  """Adds the template's role lines, so that they become single tokens."""
  for text in texts:
    yield text
    yield "user\n"
    yield "assistant\n"


def write_tiny_directory(
  out: str | os.PathLike, texts: Iterable[str], vocab_size: int = 512
) -> None:
  """Writes the tiny Qwen2.5-VL's directory: everything but the weights.

  A 48x48 picture stays as it is and gives 9 visual tokens; pictures with
  less than a quarter or more than four times its pixels are resized.

  Args:
    out: directory, made where absent; files of these names are replaced.
    texts: what the tokenizer is trained on, e.g. prompts and answers.
    vocab_size: as in `train_tokenizer`.

  Raises:
    ValueError: as `train_tokenizer`.
  """
  folder = Path(out)
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer = train_tokenizer(_with_role_names(texts), vocab_size)
  save_tokenizer(tokenizer, folder)
  ids = {text: tokenizer.convert_tokens_to_ids(text) for text in SPECIAL_TOKENS}
  end, pad = ids["<|im_end|>"], ids["<|endoftext|>"]
  write_json(
    folder / "config.json",
    {
      "architectures": ["Qwen2_5_VLForConditionalGeneration"],
      "model_type": "qwen2_5_vl",
      "attention_dropout": 0.0,
      "bos_token_id": pad,
      "eos_token_id": end,
      "vision_start_token_id": ids["<|vision_start|>"],
      "vision_end_token_id": ids["<|vision_end|>"],
      "vision_token_id": ids["<|vision_pad|>"],
      "image_token_id": ids["<|image_pad|>"],
      "video_token_id": ids["<|video_pad|>"],
      "hidden_act": "silu",
      "hidden_size": 96,
      "initializer_range": 0.02,
      "intermediate_size": 256,
      "max_position_embeddings": 4096,
      "num_attention_heads": 6,
      "num_hidden_layers": 3,
      "num_key_value_heads": 2,
      "rms_norm_eps": 1e-6,
      "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
      "rope_theta": 10.0,
      "tie_word_embeddings": True,
      "torch_dtype": "float32",
      "use_cache": True,
      "use_sliding_window": False,
      "vision_config": {
        "depth": 3,
        "fullatt_block_indexes": [2],
        "hidden_act": "silu",
        "hidden_size": 64,
        "in_chans": 3,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": 96,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "spatial_patch_size": 8,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 16,
      },
      "vocab_size": len(tokenizer),
    },
  )
  write_json(
    folder / "generation_config.json",
    {
      "bos_token_id": pad,
      "do_sample": False,
      "eos_token_id": [end, pad],
      "pad_token_id": pad,
    },
  )
  write_json(
    folder / "preprocessor_config.json",
    {
      "image_mean": [0.5, 0.5, 0.5],
      "image_processor_type": "Qwen2VLImageProcessor",
      "image_std": [0.25, 0.25, 0.25],
      "max_pixels": 4 * 48 * 48,
      "merge_size": 2,
      "min_pixels": 48 * 48 // 4,
      "patch_size": 8,
      "processor_class": "Qwen2_5_VLProcessor",
      "temporal_patch_size": 2,
    },
  )
