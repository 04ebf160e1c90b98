"""Checkpoints: one module over Orbax, with a commit marker of our own.

A step counts only once `checkpoints/STEP/COMMITTED` stands, which is written
last and removed first: a kill at any moment leaves steps that are whole or do
not count. What does not count is removed before the next save.

Beside the last steps stands the best one, which best.json names once the step
is committed.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding

from mirl_jax.runs.best import read_best, write_best
from mirl_jax.runs.files import PathLike, local_path, plain, write_atomic

MARKER = "COMMITTED"


def _barrier(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _key_name(key: Any) -> str:
  for attribute in ("key", "name", "idx"):
    if hasattr(key, attribute):
      return str(getattr(key, attribute))
  return str(key)


def _by_path(tree: Any) -> dict[str, Any]:
  """Leaves by path; Orbax's metadata names them as the state's tree does."""
  leaves = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda leaf: hasattr(leaf, "shape")
  )[0]
  return {"/".join(map(_key_name, path)): leaf for path, leaf in leaves}


def _abstract(leaf: Any) -> Any:
  """A leaf as Orbax restores it: shape, dtype and a sharding."""
  if isinstance(leaf, np.ndarray | np.generic):
    return leaf
  if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
    return leaf  # a Python number is restored as one
  sharding = leaf.sharding
  if sharding is None:
    # Without one Orbax takes the sharding it saved, whose devices may be gone.
    sharding = SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _stored(leaf: Any) -> tuple[tuple[int, ...], str]:
  """Shape and dtype of a leaf on disk, where typed keys are plain words."""
  if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(
    leaf.dtype, jax.dtypes.prng_key
  ):
    leaf = jax.eval_shape(jax.random.key_data, leaf)
  return tuple(leaf.shape), str(leaf.dtype)


def _check(step: int, saved: Any, wanted: Any) -> None:
  """Compares trees before Orbax does: it would cast, or fail at length."""
  have, want = _by_path(saved), _by_path(wanted)
  faults = [f"{p} is not saved" for p in want if p not in have]
  faults += [f"{p} is saved but not asked for" for p in have if p not in want]
  for path in want.keys() & have.keys():
    if not hasattr(want[path], "shape") or not hasattr(have[path], "shape"):
      continue
    got, need = _stored(have[path]), _stored(want[path])
    if got != need:
      faults.append(f"{path} is saved as {got}, asked for as {need}")
  if faults:
    shown = "; ".join(sorted(faults)[:5])
    more = f"; {len(faults) - 5} more" if len(faults) > 5 else ""
    raise ValueError(
      f"checkpoint {step} does not fit the state asked for: {shown}{more}. "
      "Use the model and optimiser config that it was saved with"
    )


class Checkpoints:
  """Saves, lists and restores the training state of one run.

  Every process of a run makes one and calls `save` and `restore`, as arrays may
  be spread over processes; only the primary one removes and marks.

  Args:
    workdir: steps lie under its folder `checkpoints`.
    keep: how many committed steps to keep, at least 1.
    primary: whether this process removes and marks.
  """

  def __init__(self, workdir: PathLike, keep: int, primary: bool = True):
    if keep < 1:
      raise ValueError(f"keep = {keep}; keep at least 1 checkpoint")
    self._workdir = local_path(workdir)
    self._folder = (self._workdir / "checkpoints").absolute()
    self._keep = keep
    self._primary = primary

  def _manager(self) -> ocp.CheckpointManager:
    # Made per use: a manager caches which steps exist, and a reader must not
    # make or clean up anything in a directory that another process writes.
    return ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=None,  # we retain: the marker must go first
        enable_async_checkpointing=False,
        cleanup_tmp_directories=False,
        create=False,
      ),
      item_handlers={
        "state": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
      },
    )

  def steps(self) -> list[int]:
    """The committed steps, in order."""
    if not self._folder.is_dir():
      return []
    folders = (f for f in self._folder.iterdir() if f.name.isdecimal())
    return sorted(int(f.name) for f in folders if (f / MARKER).is_file())

  def latest(self) -> int | None:
    """The last committed step, None where there is none."""
    return max(self.steps(), default=None)

  def best(self) -> int | None:
    """The best step that is kept, None where there is none."""
    step = read_best(self._workdir).get("step")
    return step if step in self.steps() else None

  def _remove(self, folder: Path) -> None:
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder)

  def save(
    self,
    step: int,
    state: Any,
    meta: Mapping[str, Any],
    best: Mapping[str, Any] | None = None,
  ) -> bool:
    """Writes one step, blocking until it is committed, and drops old ones.

    Args:
      step: not negative.
      state: pytree of arrays, typed keys and Python numbers.
      meta: JSON-able.
      best: what `runs.best.better` says is the best step, this one or one that
        is kept; it is not dropped.

    Returns:
      False, having written nothing, where the step was committed before.

    Raises:
      ValueError: naming an empty array, which Orbax cannot hold.
      TypeError: naming an entry of `meta` that is no JSON.
    """
    if step in self.steps():
      if best and self._primary:
        write_best(self._workdir, best)
      return False
    for path, leaf in _by_path(state).items():
      if 0 in np.shape(leaf):
        raise ValueError(
          f"state/{path} is empty (shape {np.shape(leaf)}) and cannot be saved;"
          " leave it out of the state"
        )
    meta = plain(dict(meta), "meta")
    if self._primary:
      self._folder.mkdir(parents=True, exist_ok=True)
      for folder in self._folder.iterdir():
        if folder.is_dir() and not (folder / MARKER).is_file():
          self._remove(folder)
    _barrier(f"checkpoint {step}: cleaned")
    with self._manager() as manager:
      manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
        ),
        force=True,
      )
      manager.wait_until_finished()
    _barrier(f"checkpoint {step}: written")
    if self._primary:
      write_atomic(self._folder / str(step) / MARKER, f"{step}\n")
      if best:
        write_best(self._workdir, best)
      for old in self.steps()[: -self._keep]:
        if not best or old != best["step"]:
          self._remove(self._folder / str(old))
    _barrier(f"checkpoint {step}: committed")
    return True

  def meta(self, step: int) -> dict[str, Any]:
    """The meta of one committed step, without its state."""
    with self._manager() as manager:
      args = ocp.args.Composite(meta=ocp.args.JsonRestore())
      return manager.restore(step, args=args).meta

  def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict]:
    """Reads one committed step, bit for bit.

    Args:
      step: a committed step.
      abstract_state: the state's tree with arrays, or ShapeDtypeStructs whose
        shardings say where each array goes, on any mesh. Without a sharding it
        goes to this process's first device.

    Returns:
      The state and its meta.

    Raises:
      FileNotFoundError: naming the committed steps.
      ValueError: naming leaves that are missing, left over, or of another shape
        or dtype.
    """
    if step not in self.steps():
      raise FileNotFoundError(
        f"{self._folder}: step {step} is not committed; "
        f"committed steps: {self.steps()}"
      )
    with self._manager() as manager:
      _check(step, manager.item_metadata(step).state, abstract_state)
      restored = manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(
            jax.tree.map(_abstract, abstract_state)
          ),
          meta=ocp.args.JsonRestore(),
        ),
      )
    return restored.state, restored.meta
