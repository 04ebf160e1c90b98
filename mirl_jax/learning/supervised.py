"""Supervised warm start: demonstrations in the policy's own tagged format."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Bool

from mirl_jax.data.example import Example
from mirl_jax.learning.state import TrainState, step_params
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.forward import Nodes, embed_prompts, tree_hidden
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.logprobs import token_logprobs
from mirl_jax.policy.parts import join
from mirl_jax.policy.processing import Processor, decode_pictures
from mirl_jax.policy.text import final_norm, head_logits

Array = Any


@struct.dataclass
class Demonstrations:
  """B prompts with one response each.

  Attributes:
    prompts: the questions.
    tokens: response ids.
    mask: real tokens.
    weight: of each token in the loss.
    words: ids that the visual token at each prompt position should name, -1
      where there is none.
  """

  prompts: Prompts
  tokens: Array  # [B, T] int32
  mask: Array  # [B, T] bool
  weight: Array  # [B, T] float32
  words: Array  # [B, P, W] int32


def response_text(example: Example) -> tuple[str, str]:
  """The tagged response of a demonstration: description, then the rest.

  Words stand behind a space, so that each is the same token wherever it is.
  A demonstration may answer otherwise than the truth: a teacher that slips.
  """
  answer = example.extra.get("demonstrated_answer", example.answer)
  see = f"<description> {example.description}</description>\n"
  reason = f"<think> {example.reasoning}</think>\n"
  return see, f"{reason}<answer> {answer}</answer>"


def response_fitting(
  processor: Processor, length: int
) -> Callable[[Example], Example]:
  """A check that an example's response fits so many tokens."""

  def response_fits(example: Example) -> Example:
    """The example itself; ValueError where its response does not fit."""
    needed = len(processor.encode_text("".join(response_text(example))))
    if needed > length:
      raise ValueError(
        f"needs {needed} response tokens, more than {length}; raise"
        " sft.response_length"
      )
    return example

  return response_fits


def region_words(
  example: Example, processor: Processor, tokens: Array, width: int
) -> Array:
  """First token ids of the words that each placeholder should name."""
  words = np.full((len(tokens), width), -1, np.int32)
  places = np.flatnonzero(tokens == processor.config.image_token)
  if len(places) != len(example.regions):
    return words
  for place, names in zip(places, example.regions, strict=True):
    for i, name in enumerate(names[:width]):
      words[place, i] = processor.encode_text(f" {name}")[0]
  return words


@dataclass(frozen=True)
class DemonstrationSizes:
  """Static sizes of a batch and the weights of its parts.

  Attributes:
    prompt: prompt tokens.
    patches: patch slots.
    response: response tokens.
    reasoning_weight: of think and answer tokens; description tokens weigh 1.
    words: words per region.
  """

  prompt: int
  patches: int
  response: int
  reasoning_weight: float = 2.0
  words: int = 2


def demonstrations(
  examples: Sequence[Example],
  processor: Processor,
  sizes: DemonstrationSizes,
  blank: Sequence[bool] | Bool[np.ndarray, " b"],
) -> Demonstrations:
  """Builds a batch on the host; the pictures are decoded by threads.

  Args:
    examples: B of them.
    processor: of the policy.
    sizes: to pad to.
    blank: which examples are shown a grey picture, so that the view without
      the image is familiar to the policy. They teach no region words, only the
      response.

  Raises:
    ValueError: names a response that does not fit or is empty.
  """
  b = len(examples)
  tokens = np.zeros((b, sizes.response), np.int32)
  mask = np.zeros((b, sizes.response), bool)
  weight = np.zeros((b, sizes.response), np.float32)
  words = np.full((b, sizes.prompt, sizes.words), -1, np.int32)
  decoded = decode_pictures(processor, examples)
  encoded = []
  for i, (example, pictures) in enumerate(zip(examples, decoded, strict=True)):
    if not example.description or not example.answer:
      raise ValueError(
        f"example {example.id!r} has no description or no answer to"
        " demonstrate; supervised training needs both columns"
      )
    see, reason = response_text(example)
    # Encoded as one text, as a policy would write it: tokens may merge across
    # the border of the two parts.
    ids = processor.encode_text(see + reason)
    first = len(processor.encode_text(see))
    if len(ids) > sizes.response:
      raise ValueError(
        f"example {example.id!r} needs {len(ids)} response tokens, but"
        f" sft.response_length is {sizes.response}; raise it"
      )
    tokens[i, : len(ids)] = ids
    mask[i, : len(ids)] = True
    weight[i, :first] = 1.0
    weight[i, first : len(ids)] = sizes.reasoning_weight
    view = "blank" if blank[i] else "clean"
    prompt = processor.encode(example, view, pictures=pictures)
    encoded.append(prompt)
    if not blank[i]:
      words[i, : len(prompt.tokens)] = region_words(
        example, processor, prompt.tokens, sizes.words
      )
  prompts = processor.collate(encoded, sizes.prompt, sizes.patches)
  return Demonstrations(prompts, tokens, mask, weight, words)


def supervised_loss(
  params: Any,
  config: VLMConfig,
  batch: Demonstrations,
  region_weight: float,
  dtype: Any = jnp.float32,
) -> tuple[Array, dict[str, Array]]:
  """Weighted negative log-likelihood of the responses, plus the naming loss.

  The naming loss asks each visual token, read through the decoder's final
  norm and the head, to name what its region shows. It moves the tower's
  features to where the decoder can read them, long before the responses do.
  """
  level = Nodes(batch.tokens[:, None], batch.mask[:, None], None)
  embedded = embed_prompts(params, config, batch.prompts, dtype)
  hidden = tree_hidden(
    params, config, batch.prompts, (level,), dtype, embedded=embedded
  )[0]
  logprob = token_logprobs(
    params,
    hidden,
    level.tokens,
    banned=config.banned_tokens,
    mesh=config.mesh,
  ).logprob
  weight = jnp.where(batch.mask, batch.weight, 0.0)
  nll = -jnp.sum(logprob[:, 0] * weight) / jnp.maximum(jnp.sum(weight), 1e-6)
  parts = {"sft/nll": nll}
  total = nll
  if region_weight > 0:
    seen = final_norm(params["text"], config.text, embedded.tokens)
    logits = jax.nn.log_softmax(head_logits(params["text"], seen), axis=-1)
    named = batch.words >= 0
    chosen = jnp.take_along_axis(logits, jnp.maximum(batch.words, 0), axis=-1)
    naming = -jnp.sum(jnp.where(named, chosen, 0.0)) / jnp.maximum(
      jnp.sum(named), 1
    )
    parts["sft/naming"] = naming
    total = total + region_weight * naming
  parts["loss/total"] = total
  return total, parts


def build_supervised_update(
  config: VLMConfig,
  optimizer: optax.GradientTransformation,
  region_weight: float,
  dtype: Any = jnp.float32,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """A pure update: (state, demonstrations, frozen) -> (state, metrics).

  `frozen` are the parameters that are not trained.
  """

  def update(state: TrainState, batch: Demonstrations, frozen: Any = None):
    def whole(params: Any) -> tuple[Array, dict[str, Array]]:
      return supervised_loss(
        join(params, frozen), config, batch, region_weight, dtype
      )

    grads, metrics = jax.grad(whole, has_aux=True)(state.params)
    state, norm = step_params(state, grads, optimizer, 0.0)
    metrics = {
      **metrics,
      "grad_norm": norm,
      "skipped/nonfinite": state.skipped,
    }
    return dataclasses.replace(state, step=state.step + 1), metrics

  return update
