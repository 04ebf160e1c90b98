"""Traces, made by hand and by the profiler."""

import time

import jax
import jax.numpy as jnp
import pytest

from benchmarks.speed.timeline import (
  MARK,
  Event,
  Program,
  Timeline,
  busiest,
  busy_share,
  find_trace,
  idle_row,
  read_timeline,
  steps_of,
)
from benchmarks.speed.timeline_figure import draw_timelines, shown_programs

# Two steps, 0-100 and 100-200, and the begin of a third.
HAND = Timeline(
  programs=[
    Program("sample", (-20.0, 40.0)),
    Program("copy", (35.0, 50.0)),
    Program("update", (60.0, 90.0)),
    Program("sample", (90.0, 130.0)),
    Program("update", (190.0, 260.0)),
  ],
  host=[
    Event(MARK + "collect", (0.0, 60.0)),
    Event(MARK + "judge", (52.0, 58.0)),
    Event("parse", (50.0, 54.0)),
    Event("parse", (53.0, 59.0)),
    Event(MARK + "collect", (100.0, 185.0)),
    Event(MARK + "judge", (131.0, 185.0)),
    Event(MARK + "collect", (200.0, 210.0)),
  ],
)


def test_idle_time_is_what_no_program_covers():
  steps = steps_of(HAND, "collect")
  assert steps == [(0.0, 100.0), (100.0, 200.0)]
  first, second = (idle_row(HAND, step, 2) for step in steps)
  assert (first["wall_ms"], first["idle_ms"]) == (100.0, 10.0)
  assert first["idle_share"] == 0.1
  assert first["longest_gap"]["ms"] == 10.0
  assert first["longest_gap"]["after_ms"] == 50.0
  # Both calls of `parse` together; the collecting covers it all.
  assert first["longest_gap"]["host_ms"] == {MARK + "collect": 10, "parse": 9}
  assert first["program_ms"] == {"sample": 50, "copy": 15, "update": 30}
  assert second["idle_ms"] == 60.0
  assert second["program_ms"] == {"sample": 30, "update": 10}
  assert second["longest_gap"]["host_ms"] == {
    MARK + "collect": 55,
    MARK + "judge": 54,
  }


def test_a_busy_step_has_no_gap():
  row = idle_row(HAND, (60.0, 130.0), 2)
  assert row["idle_share"] == 0
  assert row["longest_gap"] == {"ms": 0, "after_ms": None, "host_ms": {}}


def test_names_that_do_not_touch_the_gap_are_left_out():
  assert busiest(HAND.host, (61.0, 99.0), 9) == []


def test_the_busy_share_of_intervals():
  assert busy_share(HAND, [(45.0, 55.0)]) == 0.5
  assert busy_share(HAND, [(45.0, 55.0), (70.0, 80.0), (140, 160)]) == 0.375
  assert busy_share(HAND, [(131.0, 185.0)]) == 0


def test_a_trace_needs_a_whole_step():
  with pytest.raises(ValueError, match="1 begins of 'collect'"):
    steps_of(Timeline([], HAND.host[:1]), "collect")


def test_the_profilers_trace_shows_a_pause_of_the_device(tmp_path):
  def burden(x):
    return jax.lax.fori_loop(0, 20, lambda i, x: jnp.tanh(x @ x), x)

  work = jax.jit(burden)
  x = jax.block_until_ready(work(jnp.ones((128, 128))))
  with jax.profiler.trace(str(tmp_path / "profile")):
    jax.block_until_ready(work(x))
    with jax.profiler.TraceAnnotation(MARK + "nap"):
      time.sleep(0.02)
    jax.block_until_ready(work(x))
  timeline = read_timeline(find_trace(tmp_path))
  runs = [p.span for p in timeline.programs if "burden" in p.module]
  assert len(runs) == 2
  (nap,) = timeline.phases("nap")
  assert nap[1] - nap[0] >= 20
  assert runs[0][1] <= nap[0]
  assert nap[1] <= runs[1][0]
  gap = idle_row(timeline, (runs[0][0], runs[1][1]), 3)["longest_gap"]
  assert gap["ms"] >= 20
  assert MARK + "nap" in gap["host_ms"]


def test_no_trace_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError, match="has no trace"):
    find_trace(tmp_path)


def test_rare_programs_are_shown_as_one():
  shown = shown_programs(HAND, (0.0, 200.0), 2)
  assert shown == {
    "sample": [(0.0, 40.0), (90.0, 130.0)],
    "update": [(60.0, 90.0), (190.0, 200.0)],
    "other": [(35.0, 50.0)],
  }


def test_a_figure_is_drawn(tmp_path):
  path = tmp_path / "new" / "steps.png"
  draw_timelines({"by hand": HAND}, "collect", ["collect", "judge"], path)
  assert path.read_bytes().startswith(b"\x89PNG")
