"""A policy as an ordinary Hugging Face directory: `--mode=export`.

Everything but the weights is carried over from the directory that the policy
started from.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mirl_jax import build
from mirl_jax.policy.directory import (
  copy_directory,
  stored_dtype,
  write_dtype,
)
from mirl_jax.policy.lora import merge
from mirl_jax.policy.peft import write_adapter
from mirl_jax.policy.processing import write_pixel_limits
from mirl_jax.policy.saving import save_params
from mirl_jax.start import load_roles

_STORED = ("float32", "float16", "bfloat16")
_MARKER = "UNFINISHED"  # in a directory that is being written


def check_out(config: ConfigDict, out: str) -> Path:
  """The directory to write, which must not hold anything yet.

  Raises:
    ValueError: where there is no name, or something of that name.
  """
  if not out:
    raise ValueError("--mode=export needs --out=DIR, the directory to write")
  path = Path(out)
  base = build.policy_path(config)
  if (
    isinstance(base, str | os.PathLike)
    and path.resolve() == Path(base).resolve()
  ):
    raise ValueError(
      f"--out={out} is policy.path, the directory to start from; name another"
    )
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise ValueError(
      f"--out={out} exists and is not an empty directory; name another or"
      " remove it"
    )
  return path


def export_dtype(config: ConfigDict) -> np.dtype:
  """The dtype of exported weights: the config's, or that of policy.path.

  Raises:
    ValueError: for one that is not supported.
  """
  name = config.export.dtype
  if name:
    if name not in build.DTYPES:
      raise ValueError(
        f"export.dtype={name!r} is not one of {sorted(build.DTYPES)}"
      )
    return np.dtype(name)
  path = build.policy_path(config)
  name = (stored_dtype(path) or "float32").removeprefix("torch.")
  if name not in _STORED:
    raise ValueError(
      f"{path}/config.json has dtype {name!r}, which cannot be written; set"
      f" export.dtype to one of {sorted(build.DTYPES)}"
    )
  return np.dtype(name)


def check_export(config: ConfigDict) -> None:
  """Refuses a bad field of `export` before hours of work.

  Raises:
    ValueError: naming the field.
  """
  export_dtype(config)
  _shard_bytes(config)
  if config.export.lora not in ("merge", "adapter"):
    raise ValueError(
      f"export.lora={config.export.lora!r} is not one of ('merge', 'adapter')"
    )
  tuning = config.policy.train.to_dict()
  full = [part for part, how in tuning.items() if how == "full"]
  if config.export.lora == "adapter" and full:
    raise ValueError(
      f"export.lora=adapter would lose policy.train.{full[0]}=full; write the"
      " whole model with export.lora=merge"
    )


def _shard_bytes(config: ConfigDict) -> int:
  size = config.export.shard_gb
  if not (math.isfinite(size) and size > 0):
    raise ValueError(f"export.shard_gb={size}: give gigabytes above 0")
  return int(size * 1e9)


def _new_draft(draft: Path) -> None:
  """An empty directory to write in; what a kill left there is removed."""
  if (draft / _MARKER).is_file():
    shutil.rmtree(draft)
  elif draft.exists():
    raise ValueError(
      f"{draft} is in the way: files are written there first; move it"
    )
  draft.mkdir(parents=True)
  (draft / _MARKER).touch()


@contextlib.contextmanager
def drafted(out: Path) -> Iterator[Path]:
  """A directory beside `out` that becomes `out` at the end.

  A kill leaves nothing that looks whole. Every process of a run enters; only
  the primary one makes, renames and removes.

  Args:
    out: absent, or an empty directory.
  """
  primary = jax.process_index() == 0
  draft = out.with_name(f"{out.name}.part")
  if primary:
    _new_draft(draft)
  try:
    yield draft
    if primary:
      if out.exists():
        out.rmdir()
      (draft / _MARKER).unlink()
      draft.rename(out)
  except BaseException:
    if primary:
      shutil.rmtree(draft, ignore_errors=True)
    raise


def write_model(
  config: ConfigDict,
  policy: build.Policy,
  params: Mapping[str, Any],
  out: Path,
  say: Callable[[str], None] | None = None,
) -> None:
  """Writes a Hugging Face directory: policy.path's files, new weights.

  It keeps the pixel limits that the policy was trained with. Every process of
  a run calls this; the primary one writes.

  Args:
    config: of the run.
    policy: whose directory and processor.
    params: without adapters, on any mesh.
    out: absent, or an empty directory.
    say: told each file of weights that is written.

  Raises:
    ValueError: for a bad field of `export`.
  """
  primary = jax.process_index() == 0
  dtype, shard_bytes = export_dtype(config), _shard_bytes(config)
  with drafted(out) as draft:
    save_params(draft, params, policy.config, shard_bytes, dtype, say, primary)
    if primary:
      copy_directory(build.policy_path(config), draft)
      write_pixel_limits(draft, policy.processor.images)
      write_dtype(draft, dtype.name)


def export(config: ConfigDict, workdir: str, out: str) -> int:
  """Writes the policy of the run's last checkpoint; returns the exit code.

  Args:
    config: of the run; `export.lora` says what becomes of adapters.
    workdir: of the run; without a checkpoint there the start policy is written.
    out: directory to write, absent or empty.

  Raises:
    ValueError: for a bad `out`, or as `write_model`.
  """
  path = check_out(config, out)
  check_export(config)
  policy = build.make_policy(config)
  roles, step = load_roles(config, workdir, policy)
  say = print if jax.process_index() == 0 else None
  params = roles["policy"]
  if config.export.lora == "adapter":
    with drafted(path) as draft:
      if jax.process_index() == 0:
        base = str(config.policy.path)
        lora = policy.training.lora
        write_adapter(draft, params, policy.config, lora, base)
    kind, stored = "adapter", "float32"
  else:
    write_model(config, policy, merge(params), path, say)
    kind, stored = "model", export_dtype(config).name
  if say is not None:
    which = (
      f"the start policy, as {workdir} has no checkpoint"
      if step is None
      else f"step {step} of {workdir}"
    )
    say(f"{kind}: {path} ({which}; {stored})")
  return 0
