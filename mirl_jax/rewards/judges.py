"""Those who judge in processes of their own: mathematics, a user's judge."""

import atexit
import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from mirl_jax.rewards import symbolic
from mirl_jax.rewards.latex import boxed_part, split_unit, to_latex
from mirl_jax.rewards.limits import refusal
from mirl_jax.rewards.verdict import Ask, Verdict
from mirl_jax.rewards.workers import Outcome, Workers

_REMEMBERED = 20_000  # verdicts


class Judges:
  """Pools of workers that answer what a verifier cannot; a context manager.

  Workers start when first needed. Any thread may ask.

  Args:
    count: processes of each pool.
    deadline_s: seconds for one question of mathematics.
    memory_mb: megabytes for one worker; 0 for no limit.
    judge: a user's function (prediction, answer, question) -> number in 0..1,
      bool or None, as "package.module:function" or "file.py:function"; ""
      for none.
    judge_deadline_s: seconds for one call of it.
    iou: the least IoU of a box by the step of training, for rows without one
      of their own: "0.5", or "0:0.5,100:0.75" from step 0 and from step 100.

  Raises:
    ValueError: for a malformed `iou`.
  """

  def __init__(
    self,
    count: int = 2,
    deadline_s: float = 5.0,
    memory_mb: int = 1024,
    judge: str = "",
    judge_deadline_s: float = 60.0,
    iou: str = "0.5",
  ):
    self._iou = read_schedule(iou)
    self._settings = {
      "math": {
        "target": "mirl_jax.rewards.symbolic:equal",
        "count": count,
        "deadline_s": deadline_s,
        "memory_mb": memory_mb,
        "preload": symbolic.PRELOAD,
        "setup": ("mirl_jax.rewards.symbolic:set_up",),
      },
      "judge": {
        "target": "mirl_jax.rewards.judge:call",
        "count": count,
        "deadline_s": judge_deadline_s,
        "memory_mb": memory_mb,
        "setup": ("mirl_jax.rewards.judge:set_up", judge),
      },
    }
    self._judge = judge
    self._pools: dict[str, Workers] = {}
    self._known: OrderedDict[Ask, Verdict] = OrderedDict()
    self._closed = False
    self._lock = threading.Lock()

  @property
  def restarts(self) -> int:
    """Workers that were lost and replaced so far."""
    return sum(pool.restarts for pool in self._pools.values())

  def least_iou(self, step: int) -> float:
    """The threshold of boxes at a step of training."""
    return [value for start, value in self._iou if start <= step][-1]

  def start(self) -> None:
    """Starts the user's judge, where there is one, to see that it can.

    Raises:
      ValueError: where it cannot, with the reason.
    """
    if self._judge:
      self._pool("judge")

  def ask(self, asks: Sequence[Ask]) -> list[Verdict]:
    """A verdict on each, in order; the same question is judged once.

    Raises:
      ValueError: where no worker can start, or on closed judges.
    """
    with self._lock:
      verdicts = self._ask(asks)
    return [verdicts[ask] for ask in asks]

  def _ask(self, asks: Sequence[Ask]) -> dict[Ask, Verdict]:
    verdicts: dict[Ask, Verdict] = {}
    work: dict[str, list[tuple[Ask, tuple]]] = {"math": [], "judge": []}
    for ask in dict.fromkeys(asks):
      if ask in self._known:
        verdicts[ask] = self._known[ask]
      elif ask.judge == "math":
        prepared = prepare(ask)
        if isinstance(prepared, Verdict):
          verdicts[ask] = prepared
        else:
          work["math"].append((ask, prepared))
      elif not self._judge:
        verdicts[ask] = Verdict(False, "no judge is configured", abstains=True)
      else:
        call = (ask.prediction, ask.answer, ask.question)
        work["judge"].append((ask, call))
    for name, todo in work.items():
      read = _read_equal if name == "math" else _read_judge
      outcomes = (
        self._pool(name).map([call for _, call in todo]) if todo else []
      )
      for (ask, _), outcome in zip(todo, outcomes, strict=True):
        verdicts[ask] = read(outcome)
    self._remember(verdicts)
    return verdicts

  def _pool(self, name: str) -> Workers:
    if self._closed:
      raise ValueError("these judges are closed")
    if name not in self._pools:
      settings: dict[str, Any] = dict(self._settings[name])
      self._pools[name] = Workers(settings.pop("target"), **settings)
    return self._pools[name]

  def _remember(self, verdicts: dict[Ask, Verdict]) -> None:
    # What a judge could not tell now it may tell later.
    self._known.update(
      {ask: said for ask, said in verdicts.items() if not said.abstains}
    )
    while len(self._known) > _REMEMBERED:
      self._known.popitem(last=False)

  def close(self) -> None:
    """Ends the workers."""
    self._closed = True
    for pool in self._pools.values():
      pool.close()

  def __enter__(self) -> "Judges":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()


def prepare(ask: Ask) -> tuple[str, str] | Verdict:
  """What the worker is asked, or why it is not."""
  given, unit = split_unit(boxed_part(ask.prediction))
  expected, expected_unit = split_unit(boxed_part(ask.answer))
  if unit and expected_unit and unit != expected_unit:
    return Verdict(False, "another unit")
  prediction, answer = to_latex(given), to_latex(expected)
  if prediction == answer:
    return Verdict(True, "same expression")
  for name, text in (("", prediction), ("the reference has ", answer)):
    if why := refusal(text):
      return Verdict(False, f"not computed: {name}{why}")
  return prediction, answer


def _read_equal(outcome: Outcome) -> Verdict:
  if outcome.failure:
    return Verdict(False, f"not computed: {outcome.failure}")
  return Verdict(*outcome.value)


def _read_judge(outcome: Outcome) -> Verdict:
  if outcome.failure:
    return Verdict(False, f"judge: {outcome.failure}", abstains=True)
  score, reason = outcome.value
  if score is None:
    return Verdict(False, reason, abstains=True)
  return Verdict(score >= 0.5, reason, score)


def read_schedule(text: str) -> tuple[tuple[int, float], ...]:
  """Thresholds by the step from which they hold, the first from step 0.

  Raises:
    ValueError: unless it is "0.5" or "0:0.5,100:0.75", of rising steps and
      values above 0 and at most 1.
  """
  try:
    if ":" not in text:
      pairs = [(0, float(text))]
    else:
      parts = [part.split(":") for part in text.split(",")]
      pairs = [(int(start), float(value)) for start, value in parts]
  except ValueError:
    pairs = []
  steps = [start for start, _ in pairs]
  rising = steps[:1] == [0] and sorted(set(steps)) == steps
  if not rising or not all(0 < value <= 1 for _, value in pairs):
    raise ValueError(
      f"iou={text!r}: give a threshold in 0..1, or several by rising steps"
      " from 0, as 0:0.5,100:0.75"
    )
  return tuple(pairs)


def make_judges(config: Any) -> Judges:
  """The judges that a config's `verifier` section describes.

  Raises:
    ValueError: for a bad field of it, naming it.
  """
  c = config.verifier
  try:
    return Judges(
      c.workers, c.deadline_s, c.memory_mb, c.judge, c.judge_deadline_s, c.iou
    )
  except ValueError as error:
    raise ValueError(f"verifier.{error}") from error


# The judges of this process, where a caller brings none of its own.
_serving: list[Judges] = []


def default_judges() -> Judges:
  """The judges that serve this process; without a `serving`, plain ones."""
  if not _serving:
    _serving.append(Judges(count=max(1, min(4, os.cpu_count() or 1))))
    atexit.register(_serving[0].close)
  return _serving[-1]


@contextlib.contextmanager
def serving(judges: Judges) -> Iterator[None]:
  """Makes these the judges of this process for a while; then closes them.

  Raises:
    ValueError: where a user's judge cannot start.
  """
  with judges:
    judges.start()
    _serving.append(judges)
    try:
      yield
    finally:
      _serving.remove(judges)
