"""TRL's GRPOTrainer on the benchmarks' model, offline, step by step.

The trainer runs in a thread of its own; a callback holds it between steps, so
that a repetition is one whole step: generate, reward, update.
"""

import json
import threading
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
import trl
from PIL import Image
from transformers import ProcessorMixin, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as pil

from benchmarks.speed.workers import cores

_STEPS = 1_000_000  # more than are ever asked for


class ImageProcessor(Qwen2_5_VLProcessor):
  """Qwen's processor without the video part, which needs torchvision."""

  def __init__(
    self,
    image_processor: Any = None,
    tokenizer: Any = None,
    chat_template: str | None = None,
  ):
    self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
    ids = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
    self.image_token_id, self.video_token_id = ids
    ProcessorMixin.__init__(
      self, image_processor, tokenizer, chat_template=chat_template
    )


class Gate(transformers.TrainerCallback):
  """Lets the trainer take one step at a time."""

  def __init__(self) -> None:
    self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
    self.failed: BaseException | None = None

  def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
    self.go.acquire()

  def on_step_end(self, *args: Any, **kwargs: Any) -> None:
    self.done.release()
    self.go.acquire()

  def step(self) -> None:
    self.go.release()
    self.done.acquire()
    if self.failed is not None:
      raise self.failed


def parity(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
  """A reward that costs nothing and differs within a group."""
  del kwargs
  return [float(ids[0] % 2) for ids in completion_ids]


class Step:
  """The trainer of one model, held before its first step."""

  def __init__(
    self,
    folder: Path,
    questions: int,
    samples: int,
    tokens: int,
    micro: int,
    dtype: str,
  ):
    torch.set_num_threads(cores())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    images = pil.Qwen2VLImageProcessorPil.from_pretrained(folder)
    processor = ImageProcessor(images, tokenizer, tokenizer.chat_template)
    kind = transformers.Qwen2_5_VLForConditionalGeneration
    model = kind.from_pretrained(
      folder, attn_implementation="sdpa", dtype=torch.float32
    )
    on_cpu = not torch.cuda.is_available()
    config = trl.GRPOConfig(
      output_dir=str(folder / "trl"),
      per_device_train_batch_size=micro,
      gradient_accumulation_steps=questions * samples // micro,
      num_generations=samples,
      shuffle_dataset=False,  # every batch holds each question once
      max_completion_length=tokens,
      # All responses are as long as ours.
      generation_kwargs={"min_new_tokens": tokens},
      max_steps=_STEPS,
      learning_rate=1e-4,
      lr_scheduler_type="constant",
      adam_beta2=0.98,
      gradient_checkpointing=False,
      use_cpu=on_cpu,
      bf16=dtype == "bfloat16",
      save_strategy="no",
      report_to=[],
      disable_tqdm=True,
      logging_steps=_STEPS,
    )
    texts = json.loads((folder / "questions.json").read_text())[:questions]
    rows = {
      "prompt": [[{"role": "user", "content": text}] for text in texts],
      "image": [
        Image.fromarray(np.load(folder / f"q{i}.npy"))
        for i in range(len(texts))
      ],
    }
    data = datasets.Dataset.from_dict(rows)
    data = data.select([*range(questions)] * 64)  # an epoch is not a step
    self.gate = Gate()
    self.trainer = trl.GRPOTrainer(
      model=model,
      reward_funcs=parity,
      args=config,
      train_dataset=data,
      processing_class=processor,
      callbacks=[self.gate],
    )
    self.note: dict[str, Any] = {"micro_batch": micro}
    threading.Thread(target=self._train, daemon=True).start()

  def _train(self) -> None:
    try:
      self.trainer.train()
    except BaseException as error:  # it is raised in `step`
      self.gate.failed = error
      self.gate.done.release()

  def once(self) -> None:
    self.gate.step()

  def check(self) -> dict[str, Any]:
    """Takes a step; the tokens that went into generate and came out."""
    model, generate = self.trainer.model, self.trainer.model.generate
    seen: dict[str, Any] = {}

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
      out = generate(*args, **kwargs)
      seen["prompts"] = kwargs["input_ids"].tolist()
      seen["generated"] = out.numel() - kwargs["input_ids"].numel()
      return out

    model.generate = watched
    self.gate.step()
    model.generate = generate
    return seen


def contender(folder: str, **values: Any) -> Step:
  return Step(Path(folder), **values)
