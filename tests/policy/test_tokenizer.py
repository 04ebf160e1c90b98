import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mirl_jax.policy import tokenizer as tk

GOLDENS = (
  Path(__file__).parents[2].parent / "shared/data/goldens/qwen25_tokenize.jsonl"
)
QWEN = (
  Path(__file__).parents[2].parent / "shared/data/qwen/qwen2.5-vl-7b-instruct"
)
TEXTS = (
  "<description>a big red circle at the top left</description>\n"
  "<think>There are 12 + 3 shapes.</think>\n<answer>15</answer>",
  "What is left of the blue square?",
  "How many circles are there? Ünïcode: 三角形 🙂",
)


@pytest.fixture(scope="module")
def tokenizer():
  return tk.train_tokenizer(TEXTS * 20, 330)


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  tk.save_tokenizer(tokenizer, folder)
  return tk.load_tokenizer(folder)


def random_text(rng):
  """Words, digits, symbols, controls and characters of every plane."""
  common = "abc XYZ 019 <|>/\n\r\t'.,-é三🙂\u0301"
  out = []
  for _ in range(rng.integers(0, 60)):
    if rng.random() < 0.7:
      out.append(common[rng.integers(len(common))])
    else:
      code = int(rng.integers(1, 0x110000))
      out.append(" " if 0xD800 <= code < 0xE000 else chr(code))
  return "".join(out)


def test_special_tokens_come_last_in_qwens_order(tokenizer):
  ids = tokenizer.convert_tokens_to_ids(list(tk.SPECIAL_TOKENS))
  assert ids == list(range(len(tokenizer) - len(ids), len(tokenizer)))
  assert len(tokenizer) == 330
  assert tokenizer.encode("<|image_pad|>") == [ids[6]]


def test_repeated_words_become_single_tokens():
  larger = tk.train_tokenizer(TEXTS * 20, 500)
  pieces = [larger.decode([i]) for i in larger.encode(TEXTS[0])]
  assert {" circle", "<description", "</", ">\n"} <= set(pieces)
  # Digits stay apart, as Qwen's do.
  assert pieces[pieces.index(" +") - 2 :][:2] == ["1", "2"]


def test_saved_files_load_as_the_same_qwen2_tokenizer(tokenizer, saved):
  assert type(saved).__name__.startswith("Qwen2Tokenizer")
  assert saved.get_vocab() == tokenizer.get_vocab()
  assert saved.eos_token == "<|im_end|>"
  assert saved.pad_token == "<|endoftext|>"
  rng = np.random.default_rng(0)
  for _ in range(50):
    text = random_text(rng)
    assert saved.encode(text) == tokenizer.encode(text)


def test_training_is_deterministic_across_processes(tokenizer):
  program = (
    "import sys, json\n"
    "from mirl_jax.policy.tokenizer import train_tokenizer\n"
    "texts = json.load(sys.stdin)\n"
    "print(json.dumps(train_tokenizer(texts, 330).get_vocab()))\n"
  )
  out = subprocess.run(
    [sys.executable, "-c", program],
    input=json.dumps(TEXTS * 20),
    capture_output=True,
    text=True,
    check=True,
    cwd=Path(tk.__file__).parents[2],
  )
  assert json.loads(out.stdout) == tokenizer.get_vocab()


def test_a_vocabulary_too_small_for_bytes_is_refused():
  with pytest.raises(ValueError, match=r"vocab_size 263 is too small.*264"):
    tk.train_tokenizer(TEXTS, 263)
  assert len(tk.train_tokenizer(TEXTS, 264)) == 264


def test_token_bytes_join_to_the_text(saved):
  """NFC aside, a text is its tokens' bytes joined, at any byte."""
  import unicodedata

  table = tk.token_bytes(saved, len(saved))
  rng = np.random.default_rng(1)
  for _ in range(200):
    text = random_text(rng)
    joined = b"".join(table[i] for i in saved.encode(text))
    assert joined.decode() == unicodedata.normalize("NFC", text)


def test_token_bytes_cover_every_byte_and_the_specials(saved):
  table = tk.token_bytes(saved, len(saved) + 3)
  assert {bytes([b]) for b in range(256)} <= set(table)
  assert table[saved.convert_tokens_to_ids("<|im_end|>")] == b"<|im_end|>"
  assert table[-3:] == [b"", b"", b""]


def test_token_bytes_equal_the_tokenizers_decoder(saved):
  table = tk.token_bytes(saved, len(saved))
  rng = np.random.default_rng(2)
  for _ in range(100):
    ids = rng.integers(0, len(saved), 12).tolist()
    joined = b"".join(table[i] for i in ids)
    want = saved.decode(ids, clean_up_tokenization_spaces=False)
    assert joined.decode("utf-8", errors="replace") == want


def test_a_tokenizer_larger_than_the_model_is_refused(saved):
  with pytest.raises(ValueError, match=r"has an id 329, but .* is 300"):
    tk.token_bytes(saved, 300)


def test_a_tokenizer_that_is_not_byte_level_is_refused():
  class WordPiece:
    added_tokens_decoder = {}  # noqa: RUF012

    def get_vocab(self):
      return {"▁the": 0}

  with pytest.raises(ValueError, match=r"token 0 .*byte-level"):
    tk.token_bytes(WordPiece(), 10)


def test_a_directory_without_tokenizer_is_named(tmp_path):
  (tmp_path / "vocab.json").write_text("{}")
  with pytest.raises(ValueError, match="has no tokenizer"):
    tk.load_tokenizer(tmp_path)


def test_every_golden_text_has_qwens_ids_and_bytes():
  if not GOLDENS.is_file():
    pytest.skip(f"no {GOLDENS}")
  tokenizer = tk.load_tokenizer(QWEN)
  table = tk.token_bytes(tokenizer, 152064)
  for line in GOLDENS.read_text(encoding="utf-8").splitlines():
    row = json.loads(line)
    assert tokenizer.encode(row["text"]) == row["ids"]
    joined = b"".join(table[i] for i in row["ids"]).decode()
    assert (joined == row["text"]) == row["decoded_equals"]


def test_tiny_directory_is_a_qwen25_vl_for_transformers(tmp_path):
  transformers = pytest.importorskip("transformers")

  tk.write_tiny_directory(tmp_path, TEXTS * 20, 400)
  config = transformers.AutoConfig.from_pretrained(tmp_path)
  assert type(config).__name__ == "Qwen2_5_VLConfig"
  text = config.text_config
  assert (text.hidden_size, text.num_hidden_layers) == (96, 3)
  assert text.rope_parameters["mrope_section"] == [2, 3, 3]
  assert text.rope_parameters["rope_theta"] == 10
  assert config.vision_config.fullatt_block_indexes == [2]
  assert config.tie_word_embeddings
  generation = transformers.GenerationConfig.from_pretrained(tmp_path)
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert text.vocab_size == len(tokenizer)
  assert generation.eos_token_id == [
    tokenizer.eos_token_id,
    tokenizer.pad_token_id,
  ]
  assert config.image_token_id == tokenizer.encode("<|image_pad|>")[0]


def test_tiny_template_has_no_system_message_and_short_roles(tmp_path):
  tk.write_tiny_directory(tmp_path, TEXTS * 20, 400)
  tokenizer = tk.load_tokenizer(tmp_path)
  content = [{"type": "image"}, {"type": "text", "text": "Why?"}]
  rendered = tokenizer.apply_chat_template(
    [{"role": "user", "content": content}],
    tokenize=False,
    add_generation_prompt=True,
  )
  assert rendered == (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Why?"
    "<|im_end|>\n<|im_start|>assistant\n"
  )
  assert len(tokenizer.encode("<|im_start|>assistant\n")) == 3
  spoken = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}],
    tokenize=False,
  )
  assert spoken == (
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
  )
