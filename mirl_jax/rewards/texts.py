"""Short texts made comparable."""

import re
import unicodedata

from mirl_jax.rewards.numbers import NUMBER_WORDS

MAX_CHARS = 4000

_ARTICLE = re.compile(r"^(?:a|an|the) (?=\w)")


def normalise(text: str) -> str:
  """Case, width, spaces, articles, end punctuation and number words removed.

  "The Two  circles." becomes "2 circles".
  """
  text = unicodedata.normalize("NFKC", text[:MAX_CHARS]).casefold()
  text = " ".join(text.split()).strip("*`'\" ").rstrip(".,;:!? ")
  words = [
    str(NUMBER_WORDS[word]) if word in NUMBER_WORDS else word
    for word in _ARTICLE.sub("", text).split(" ")
  ]
  return " ".join(words)
