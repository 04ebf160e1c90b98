"""The configuration of a run: every field, its default and what it means.

A method (`mirl_jax/methods/`) fills in the program and the credit; a file in
`configs/` picks a method and changes what an experiment changes.
"""

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mirl_jax import methods
from mirl_jax.worlds.dials import BROKEN, Dials


def base() -> ConfigDict:
  """Defaults of everything that is not a method's."""
  c = ConfigDict()
  c.method = "mirl"
  c.seed = 0
  c.mesh = "data:-1"  # axes data, fsdp, tensor; -1 takes what is left

  c.policy = ConfigDict()
  c.policy.path = ""  # a Hugging Face directory; "" = the embedded tiny model
  c.policy.dtype = "float32"  # of activations: float32 or bfloat16
  c.policy.param_dtype = "float32"  # of the weights that are read: the same two
  c.policy.attention = "auto"  # or xla, cudnn (NVIDIA), splash (TPU)
  # Layers of a decode step: scan (small programs) or unroll (no copies on CPUs
  # and GPUs); auto scans on TPUs.
  c.policy.decode = "auto"
  c.policy.system = ""  # system message; "" leaves it to the chat template
  c.policy.instruction = ""  # appended to every question
  c.policy.min_pixels = 0  # per picture, enlarged to; 0 = the directory's
  c.policy.max_pixels = 0  # per picture, reduced to; 0 = the directory's

  c.policy.train = ConfigDict()  # how: full, lora or frozen
  c.policy.train.vision = "full"  # the tower up to the merger
  c.policy.train.merger = "full"
  c.policy.train.text = "full"
  c.policy.lora = ConfigDict()
  c.policy.lora.rank = 16
  c.policy.lora.alpha = 32.0
  c.policy.lora.target = ""  # regular expression on module names; "" = all

  c.data = ConfigDict()
  # "world"; a folder or file (.jsonl, .json, .parquet, .tsv), also PATH@SPLIT;
  # tfds:NAME/CONFIG:FOLDER; or a mix "A*2,B*1" (data/open.py).
  c.data.train = "world"
  c.data.test = ""  # the same for the test split; "" = of `train`
  c.data.columns = ""  # "question=problem,answer=solution"; "" = by their names
  c.data.image_folder = ""  # of image paths; "" = that of the data
  c.data.difficulty = ""  # "0.2:0.8": train on such rows; "" = on all
  c.data.weight_column = ""  # draw training rows in proportion; "" = evenly
  c.data.unanswered = False  # keep rows without an answer; `correct` abstains
  c.data.seed = 0  # order and, for the world, the pictures
  c.data.test_share = 0.2  # of groups of rows, where no file names say it
  c.data.group = "image"  # column whose equal values stay in one split
  c.data.group_pattern = ""  # regular expression; its (group) counts instead
  c.data.describe = ""  # derive descriptions: "shapes", "nlvr" or nothing
  c.data.max_bad_share = 0.2  # of rows; more ends the run with exit code 4
  # Sizes that batches are padded to; () = at most `buckets` of each, chosen
  # from the data's lengths (data/buckets.py) and written to config.json.
  c.data.prompt_buckets = ()
  c.data.patch_buckets = ()
  c.data.buckets = 3

  c.world = world_section(BROKEN)

  c.reward = ConfigDict()  # of one's own, see rewards/own.py; credit pays it
  c.reward.file = ""  # python file that defines score or score_batch
  c.reward.deadline_s = 5.0  # per call, then it is failed
  c.reward.memory_mb = 2048  # per worker, beyond its start; 0 = no limit
  c.reward.workers = 2  # that score, for each process of the run

  c.verifier = ConfigDict()  # of answers, see rewards/judges.py
  c.verifier.workers = 2  # processes for mathematics, and as many for a judge
  c.verifier.deadline_s = 5.0  # per comparison of two expressions
  c.verifier.memory_mb = 1024  # per worker, beyond its start; 0 = no limit
  c.verifier.judge = ""  # of answer_type "judged": FILE.py:function
  c.verifier.judge_deadline_s = 60.0  # per call of it
  c.verifier.iou = "0.5"  # least IoU of boxes, or by step: "0:0.5,100:0.75"

  c.loss = ConfigDict()
  c.loss.clip_low = 0.2
  c.loss.clip_high = 0.28
  c.loss.dual_clip = 0.0
  c.loss.ratio = "token"  # or "sequence"
  c.loss.reduction = "token"  # or "sequence", "constant"
  c.loss.kl = ConfigDict()  # stage -> weight of the KL to the reference
  c.loss.kl_kind = "k3"
  c.loss.entropy = 0.0
  c.loss.old_logprob = "sampler"  # or "recomputed"
  c.loss.importance_cap = 0.0
  c.loss.minibatches = 1
  c.loss.micro_batches = 1
  c.loss.remat = "cheap"  # kept for the backward pass: none, cheap or full

  c.guards = ConfigDict()
  c.guards.length_cap = 0
  c.guards.trust = False

  c.optimizer = ConfigDict()
  c.optimizer.lr = 1.5e-4
  c.optimizer.schedule = "constant"
  c.optimizer.warmup = 0
  c.optimizer.end = 0.0
  c.optimizer.b1 = 0.9
  c.optimizer.b2 = 0.98
  c.optimizer.eps = 1e-8
  c.optimizer.weight_decay = 0.0
  c.optimizer.clip_norm = 1.0
  c.optimizer.factor = ConfigDict()  # of the learning rate, by part
  c.optimizer.factor.vision = 1.0
  c.optimizer.factor.merger = 1.0
  c.optimizer.factor.text = 1.0  # the token embedding apart
  c.optimizer.factor.embedding = 1.0
  c.optimizer.ema_decay = 0.99

  c.train = ConfigDict()
  c.train.steps = 60
  c.train.questions = 16  # per step, over all devices
  c.train.sample_parts = 1  # one is judged while the next is sampled
  c.train.save_every = 20  # 0 = only at the end
  c.train.keep = 2  # checkpoints
  c.train.dump_every = 10  # rollout dumps
  c.train.dump_questions = 4
  c.train.stuck_after_s = (
    600.0  # a phase that lasts so long is reported; 0 = no
  )

  c.export = ConfigDict()  # of --mode=export, and of the model of --mode=sft
  c.export.dtype = ""  # float32 or bfloat16; "" = as policy.path stores them
  c.export.shard_gb = 5.0  # most gigabytes of a file
  c.export.lora = "merge"  # into the weights, or "adapter": a PEFT directory

  c.eval = ConfigDict()
  c.eval.every = 20  # 0 = only before and after
  c.eval.questions = 64  # in the loop
  c.eval.final_questions = 512  # before and after
  c.eval.batch = 64
  c.eval.samples = 4  # n of avg@n and pass@k
  # Also screen-then-fork with the training program; --mode=eval then tells how
  # well each score screens (screening/).
  c.eval.screen = False
  c.eval.seed = 1
  # The step of greatest value in this figure of the loop's evaluations is kept
  # beside the last ones; "" = none.
  c.eval.keep_best = "eval/greedy/accuracy"
  # Of --mode=eval; the checkpoint also of sample and export.
  c.eval.checkpoint = "latest"  # or "best"
  # Files or folders, with commas between: PATH, NAME=PATH, PRESET=PATH or
  # PRESET:NAME=PATH (evaluation/presets.py); "" = what training holds out.
  c.eval.sets = ""
  c.eval.limit = 0  # questions of each set; 0 = all
  c.eval.against = ""  # work directory of an evaluation to compare with

  c.sft = ConfigDict()  # of --mode=sft
  c.sft.steps = 1200
  c.sft.batch = 64
  c.sft.lr = 0.0  # in place of optimizer.lr; 0 = `optimizer` as it stands
  c.sft.schedule = "cosine"  # and this and warmup go with it
  c.sft.warmup = 20
  c.sft.response_length = 72
  c.sft.reasoning_weight = 2.0
  c.sft.blank_share = 0.1
  c.sft.region_weight = 1.0
  c.sft.from_scratch = False  # a new tiny model: tokenizer and weights
  c.sft.log_every = 50
  c.sft.save_every = 200  # 0 = only at the end
  return c


def world_section(dials: Dials) -> ConfigDict:
  """The dials of the procedural world (see worlds/dials.py) as a section;
  `kinds` maps a kind of question to its weight, `length` is the number of
  items in the training split."""
  values = dataclasses.asdict(dials)
  return ConfigDict({**values, "kinds": dict(dials.kinds), "length": 1_000_000})


def parse_argument(text: str, known: Mapping[str, str]) -> dict[str, str]:
  """Reads a config file's argument, "path=DIR,describe=shapes", into fields.

  A value may hold "=" and spaces, but no comma.

  Args:
    text: the argument; "" has no fields.
    known: default of every field.

  Raises:
    ValueError: for a part without "=", an unknown field (naming the nearest)
      or one given twice.
  """
  given: dict[str, str] = {}
  for part in text.split(",") if text.strip() else ():
    name, equals, value = (piece.strip() for piece in part.partition("="))
    if not equals:
      raise ValueError(
        f"{part!r} in the argument {text!r} is no field=value; fields are"
        f" {', '.join(known)}, with commas between them and none in a value"
      )
    if name not in known:
      near = difflib.get_close_matches(name, known, 1, 0)[0]
      raise ValueError(
        f"the argument has no field {name!r}; did you mean {near!r}?"
      )
    if name in given:
      raise ValueError(f"the argument {text!r} gives {name} twice")
    given[name] = value
  return {**known, **given}


def method_names() -> list[str]:
  """Every module of `mirl_jax.methods`."""
  return [module.name for module in pkgutil.iter_modules(methods.__path__)]


def get_config(method: str = "mirl") -> ConfigDict:
  """The defaults with a method's fragment over them.

  Raises:
    ValueError: for an unknown method, naming the nearest.
  """
  names = method_names()
  if method not in names:
    near = difflib.get_close_matches(method, names, 1, 0)[0]
    raise ValueError(f"no method {method!r}; did you mean {near!r}?")
  c = base()
  module = importlib.import_module(f"mirl_jax.methods.{method}")
  _overlay(c, module.fragment())
  c.method = method
  return c.lock()


# Sections whose names are free; all others of `base` have just its fields.
_FREE = ("world.kinds", "loss.kl")


def from_saved(values: Mapping[str, Any]) -> ConfigDict:
  """The config of a run from its config.json; newer fields have defaults.

  Raises:
    ValueError: for what is no config of a run, or a field that is unknown.
  """
  if not {"method", "policy", "train"} <= values.keys():
    raise ValueError("this is no config of a run")
  c = base()
  c.world.kinds = ConfigDict()  # a kind that a run left out stays out
  _check_known(c, values)
  try:
    _overlay(c, _tuples(values))
  except (TypeError, ValueError) as error:
    raise ValueError(f"a field has another type now: {error}") from error
  return c.lock()


def _check_known(
  c: ConfigDict, values: Mapping[str, Any], prefix: str = ""
) -> None:
  for name, value in values.items():
    path = f"{prefix}{name}"
    if prefix and name not in c:
      raise ValueError(f"there is no field {path} in this version")
    if name in c and isinstance(value, Mapping) and path not in _FREE:
      _check_known(c[name], value, f"{path}.")


def _tuples(value: Any) -> Any:
  """JSON's lists as the tuples that they were."""
  if isinstance(value, Mapping):
    return {name: _tuples(item) for name, item in value.items()}
  if isinstance(value, list):
    return tuple(_tuples(item) for item in value)
  return value


def _overlay(c: ConfigDict, values: Mapping[str, Any]) -> None:
  for name, value in values.items():
    if isinstance(value, Mapping | ConfigDict) and isinstance(
      c.get(name), ConfigDict
    ):
      _overlay(c[name], value)
    else:
      c[name] = ConfigDict(value) if isinstance(value, Mapping) else value
