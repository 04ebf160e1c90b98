"""What users run today: transformers and torch, in a process without JAX.

The prompt is repeated for every sample, as TRL's GRPOTrainer does; attention
is torch's scaled_dot_product_attention, the default and the fastest on a CPU.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.speed.workers import cores, reset_peak, status

GREEDY_TOKENS = 6
_MEMORY_SHARE = 0.6  # of what is free, that an update may fill
_MASKED = -1e30


class Peer:
  """A model and a batch in which every sample has its own prompt."""

  def __init__(self, folder: Path, dtype: str):
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    self.device = "cuda" if torch.cuda.is_available() else "cpu"
    self.dtype = getattr(torch, dtype)
    kind = transformers.Qwen2_5_VLForConditionalGeneration
    self.model = kind.from_pretrained(
      folder, attn_implementation="sdpa", dtype=torch.float32
    ).to(self.device)
    with np.load(folder / "peer.npz") as found:
      self.prompt = {name: torch.tensor(x) for name, x in found.items()}
    with np.load(folder / "responses.npz") as found:
      arrays = {name: torch.tensor(x) for name, x in found.items()}
    self.questions, self.samples, self.length = arrays["tokens"].shape
    self.arrays = {
      name: x.flatten(0, 1).to(self.device) for name, x in arrays.items()
    }
    config = self.model.config
    self.banned = [
      config.image_token_id,
      config.video_token_id,
      config.vision_start_token_id,
      config.vision_end_token_id,
      config.vision_token_id,
    ]
    self.note: dict[str, Any] = {}

  def inputs(self, rows: slice, responses: bool) -> dict[str, Any]:
    """Arguments of transformers for some of the samples."""
    index = torch.arange(self.questions).repeat_interleave(self.samples)[rows]
    ids = self.prompt["input_ids"][index]
    if responses:
      ids = torch.cat([ids, self.arrays["tokens"][rows].cpu()], dim=1)
    patches = self.prompt["pixel_values"]
    patches = patches.reshape(self.questions, -1, patches.shape[-1])[index]
    ids = ids.long()
    given = {
      "input_ids": ids,
      "attention_mask": torch.ones_like(ids),
      "mm_token_type_ids": (ids == self.model.config.image_token_id).int(),
      "pixel_values": patches.flatten(0, 1),
      "image_grid_thw": self.prompt["image_grid_thw"][index],
    }
    return {name: x.to(self.device) for name, x in given.items()}

  def logprobs(self, rows: slice, exact: bool) -> torch.Tensor:
    """Log-probs [rows, T] of the responses.

    Args:
      rows: which samples.
      exact: without the tokens that our policy may never emit. Users do not
        do this; it is for comparing values.
    """
    logits = self.model(
      **self.inputs(rows, responses=True), logits_to_keep=self.length + 1
    ).logits[:, :-1]
    logits = logits.float()
    if exact:
      logits = logits.index_fill(
        -1, torch.tensor(self.banned, device=self.device), _MASKED
      )
    chosen = self.arrays["tokens"][rows, :, None].long()
    # As TRL: the log-softmax of all ids is never stored.
    total = torch.stack([torch.logsumexp(row, dim=-1) for row in logits])
    return logits.gather(-1, chosen)[..., 0] - total

  def chunks(self, size: int) -> Iterator[slice]:
    count = self.questions * self.samples
    for begin in range(0, count, size):
      yield slice(begin, min(begin + size, count))

  def autocast(self) -> Any:
    return torch.autocast(
      self.device, self.dtype, enabled=self.dtype != torch.float32
    )

  def finish(self) -> None:
    if self.device == "cuda":
      torch.cuda.synchronize()
      self.note["device_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20


class Sampling(Peer):
  """`generate` over all samples at once."""

  def __init__(self, folder: Path, dtype: str, tokens: int):
    super().__init__(folder, dtype)
    self.model.eval().to(self.dtype)
    self.tokens = tokens
    # Without an end, all responses have the same length.
    self.model.generation_config.eos_token_id = None
    self.batch = self.inputs(slice(None), responses=False)

  def _generate(self, tokens: int, **how: Any) -> torch.Tensor:
    out = self.model.generate(
      **self.batch, max_new_tokens=tokens, min_new_tokens=tokens, **how
    )
    return out[:, self.batch["input_ids"].shape[1] :]

  def once(self) -> None:
    out = self._generate(
      self.tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
    )
    assert out.shape[1] == self.tokens, "a response ended early"
    self.finish()

  def check(self) -> dict[str, Any]:
    out = self._generate(
      GREEDY_TOKENS, do_sample=False, suppress_tokens=self.banned
    )
    shape = (self.questions, self.samples, GREEDY_TOKENS)
    return {"tokens": out.reshape(shape).tolist()}


class Scoring(Peer):
  """A forward over prompt and response, in the batch size that is fastest."""

  def __init__(self, folder: Path, dtype: str):
    super().__init__(folder, dtype)
    self.model.eval().to(self.dtype)
    count = self.questions * self.samples
    trials: dict[int, float] = {}
    # Downwards, as long as smaller is not clearly slower.
    for size in sorted({count, *(n for n in (16, 4) if n < count)})[::-1]:
      self.size = size
      self.once()
      began = time.perf_counter()
      self.once()
      trials[size] = time.perf_counter() - began
      if trials[size] > 1.2 * min(trials.values()):
        break
    self.size = min(trials, key=lambda size: trials[size])
    self.note = {"batch": self.size, "batches_tried_s": trials}

  @torch.no_grad()
  def once(self, exact: bool = False) -> list[torch.Tensor]:
    found = [
      self.logprobs(rows, exact).cpu() for rows in self.chunks(self.size)
    ]
    self.finish()
    return found

  def check(self) -> dict[str, Any]:
    return {"logprobs": torch.cat(self.once(exact=True)).tolist()}


class Updating(Peer):
  """GRPO's clipped loss, its gradient, and torch's AdamW."""

  def __init__(self, folder: Path, dtype: str):
    super().__init__(folder, dtype)
    self.model.train()
    self.optimizer = torch.optim.AdamW(
      self.model.parameters(),
      lr=1e-4,
      betas=(0.9, 0.98),
      eps=1e-8,
      weight_decay=0.0,
    )
    self.size = self._fitting()
    self.note = {"micro_batch": self.size}

  def _part(self, rows: slice, exact: bool) -> float:
    """Adds the gradient of some samples; their share of the loss."""
    with self.autocast():
      new = self.logprobs(rows, exact)
    ratio = torch.exp(new - self.arrays["old"][rows])
    advantage = self.arrays["advantage"][rows, None]
    bounded = ratio.clamp(0.8, 1.28) * advantage
    gain = torch.minimum(ratio * advantage, bounded)
    loss = -gain.sum() / self.arrays["old"].numel()
    loss.backward()
    return loss.item()

  def _fitting(self) -> int:
    """The largest micro-batch that memory holds, from what samples cost."""
    if self.device == "cuda":
      free, _ = torch.cuda.mem_get_info()
    else:
      text = Path("/proc/meminfo").read_text()
      free = 1024 * int(text.split("MemAvailable:")[1].split()[0])

    def peak(count: int) -> float:
      def work() -> None:
        self._part(slice(0, count), exact=False)

      if self.device == "cpu":
        reset_peak()
        work()
        return (status("VmHWM") - idle) * 2**20
      torch.cuda.reset_peak_memory_stats()
      work()
      return torch.cuda.max_memory_allocated() - idle

    size = self.questions * self.samples
    self._part(slice(0, 1), exact=False)  # the gradients' own memory
    idle = (
      status("VmRSS") if self.device == "cpu" else torch.cuda.memory_allocated()
    )
    one, two = peak(1), peak(2)
    self.optimizer.zero_grad()
    while size > 1 and one + (size - 1) * (two - one) > _MEMORY_SHARE * free:
      size = (size + 1) // 2
    return size

  def once(self, exact: bool = False) -> dict[str, float]:
    self.optimizer.zero_grad()
    loss = sum(self._part(rows, exact) for rows in self.chunks(self.size))
    norm = self._norm() if exact else 0.0
    torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
    self.optimizer.step()
    self.finish()
    return {"loss": loss, "grad_norm": norm}

  def _norm(self) -> float:
    """Of the gradient; torch's own float32 sum over millions of squares is
    off by 1e-4."""
    squares = [
      parameter.grad.double().square().sum()
      for parameter in self.model.parameters()
      if parameter.grad is not None
    ]
    return torch.stack(squares).sum().sqrt().item()

  def check(self) -> dict[str, Any]:
    return self.once(exact=True)


def contender(task: str, folder: str, dtype: str, tokens: int) -> Peer:
  """The contender of a task.

  Args:
    task: rollout, score or update.
    folder: of `write_case`.
    dtype: of the computation.
    tokens: sampled per response.
  """
  path = Path(folder)
  if task == "rollout":
    return Sampling(path, dtype, tokens)
  return Scoring(path, dtype) if task == "score" else Updating(path, dtype)
