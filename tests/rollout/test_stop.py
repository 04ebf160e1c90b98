from pathlib import Path

import numpy as np
import pytest

from mirl_jax.policy.tokenizer import load_tokenizer, token_bytes
from mirl_jax.rollout.stop import byte_automaton, compile_stop

QWEN = Path(__file__).parents[3] / "shared" / "data" / "qwen"
TAGS = ("</description>", "</think>", "</answer>")
# Stops that overlap themselves, where a naive restart loses a match.
OVERLAPPING = ("aa", "aba", "abab", "aabaa", "aaab", "abaabab", "a", "é→")


def random_vocabulary(seed, stops, size=120):
  """Bytes, and random merges of two earlier tokens, as BPE makes them."""
  rng = np.random.default_rng(seed)
  tokens = sorted({bytes([b]) for stop in stops for b in stop.encode()})
  tokens += [b"x", b"\n", b""]
  while len(tokens) < size:
    left, right = rng.integers(0, len(tokens), 2)
    merged = tokens[left] + tokens[right]
    if merged and len(merged) <= 24:
      tokens.append(merged)
  return tokens


def spell(stop, tokens):
  """Greedy spelling of a stop by ids."""
  text, ids = stop.encode(), []
  while text:
    best = max(
      (i for i, t in enumerate(tokens) if t and text.startswith(t)),
      key=lambda i: len(tokens[i]),
    )
    ids.append(best)
    text = text[len(tokens[best]) :]
  return ids


def run(table, stream):
  """Index of the token that completes the stop, or None."""
  state = 0
  for i, token in enumerate(stream):
    state = int(table[state, token])
    if state == len(table) - 1:
      return i
  return None


def search(stop, tokens, stream):
  """The same by plain search in the text so far."""
  text = b""
  for i, token in enumerate(stream):
    text += tokens[token]
    if stop.encode() in text:
      return i
  return None


def pieces_stream(rng, stop, tokens, length=60):
  """A stream rich in parts of the stop, so that matches do occur."""
  ids = rng.integers(0, len(tokens), length).tolist()
  close = spell(stop, tokens)
  for _ in range(rng.integers(0, 5)):
    at, cut = rng.integers(0, length), rng.integers(1, len(close) + 1)
    ids[at:at] = close[:cut]
  return ids


@pytest.mark.parametrize("stop", OVERLAPPING + TAGS)
@pytest.mark.parametrize("seed", range(2))
def test_equals_string_search_on_random_vocabularies(stop, seed):
  tokens = random_vocabulary(seed, (stop,))
  table = compile_stop(stop, tokens, spell(stop, tokens)).table
  rng = np.random.default_rng(seed)
  found = 0
  for _ in range(100):
    stream = pieces_stream(rng, stop, tokens)
    want = search(stop, tokens, stream)
    assert run(table, stream) == want
    found += want is not None
  assert found > 0


@pytest.mark.parametrize("stop", TAGS)
def test_equals_string_search_on_a_real_tokenizer(stop):
  folder = QWEN / "qwen2.5-vl-7b-instruct"
  if not folder.is_dir():
    pytest.skip(f"no {folder}")
  tokenizer = load_tokenizer(folder)
  tokens = token_bytes(tokenizer, 152064)
  close = tokenizer.encode(stop)
  compiled = compile_stop(stop, tokens, close)
  assert compiled.table.shape == (len(stop) + 1, 152064)
  rng = np.random.default_rng(0)
  # Tokens that share bytes with the stop's ends, whole words among them.
  near = [i for i, t in enumerate(tokens) if t and set(t) <= set(stop.encode())]
  merging = ["</", "/", ">", ">\n", "></", "</description", "desc", "think"]
  near += [i for text in merging for i in tokenizer.encode(text)] * 50
  found = 0
  for _ in range(200):
    stream = rng.choice(near, 20).tolist()
    if rng.random() < 0.7:
      # The stop as it is tokenised next to other text, which merges borders.
      before, after = rng.choice(["a", " x", ".", "<", "</", ""], 2)
      inside = tokenizer.encode(f"{before}{stop}{after}<think>")
      at = rng.integers(0, 20)
      stream[at:at] = inside[: rng.integers(1, len(inside) + 1)]
    want = search(stop, tokens, stream)
    assert run(compiled.table, stream) == want
    found += want is not None
  assert 40 < found < 200


@pytest.mark.parametrize("stop", OVERLAPPING)
def test_byte_automaton_state_is_the_longest_prefix_that_ends_here(stop):
  text = stop.encode()
  table = byte_automaton(text)
  rng = np.random.default_rng(0)
  alphabet = [*set(text), ord("z")]
  for _ in range(50):
    seen, state = b"", 0
    for byte in rng.choice(alphabet, 30).tolist():
      seen += bytes([byte])
      state = int(table[state, byte])
      if text in seen:
        assert state == len(text)
      else:
        want = max(n for n in range(len(text)) if seen.endswith(text[:n]))
        assert state == want


def test_the_accepting_state_is_never_left():
  tokens = random_vocabulary(0, ("abab",))
  compiled = compile_stop("abab", tokens, spell("abab", tokens))
  assert (compiled.table[compiled.accept] == compiled.accept).all()
  assert compiled.accept == 4


def test_a_token_may_hold_the_stop_and_more():
  tokens = [b"x</d>y</", b"d", b">", b"</d>"]
  table = compile_stop("</d>", tokens, [3]).table
  assert run(table, [0]) == 0
  assert run(table, [1, 2, 0, 1]) == 2


def test_a_token_without_bytes_keeps_the_state():
  tokens = [b"a", b"b", b""]
  table = compile_stop("ab", tokens, [0, 1]).table
  np.testing.assert_array_equal(table[:, 2], [0, 1, 2])
  assert run(table, [0, 2, 2, 1]) == 3


def test_close_must_spell_the_stop():
  tokens = [b"</", b"d>", b"d>\n"]
  assert compile_stop("</d>", tokens, [0, 1]).close == (0, 1)
  for close, spelled in (([0], b"</"), ([0, 2], b"</d>\n"), ([], b"")):
    with pytest.raises(ValueError, match="close spells") as error:
      compile_stop("</d>", tokens, close)
    assert repr(spelled) in str(error.value)
    assert repr(b"</d>") in str(error.value)


def test_an_empty_stop_is_refused():
  with pytest.raises(ValueError, match="stop must not be empty"):
    compile_stop("", [b"a"], [])
