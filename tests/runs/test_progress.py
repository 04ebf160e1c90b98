import io

from mirl_jax.runs.progress import Progress, format_figures


class Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


def _drive(stream, steps, seconds, **options):
  clock = Clock()
  with Progress(
    steps, stream=stream, interval=5.0, clock=clock, **options
  ) as bar:
    for step in range(1, steps + 1):
      clock.now += seconds
      bar.update(step, {"accuracy": step / steps})
      if step == 3:
        bar.note("checkpoint saved")
  return stream.getvalue()


def test_a_file_gets_few_lines_first_and_last_among_them():
  lines = _drive(io.StringIO(), 100, 0.5).splitlines()
  lines.remove("checkpoint saved")
  steps = [int(line.split()[1].split("/")[0]) for line in lines]
  # One line per 5 s is one per 10 steps of 0.5 s.
  assert steps == [1, *range(11, 100, 10), 100]
  assert lines[1] == "step 11/100  2/s  00:44 left  accuracy 0.11"


def test_slow_steps_all_get_a_line_with_seconds_each():
  lines = _drive(io.StringIO(), 4, 20.0).splitlines()
  assert len(lines) == 5
  assert "20 s each  00:40 left" in lines[1]


def test_a_resumed_run_counts_its_own_rate():
  clock, stream = Clock(), io.StringIO()
  bar = Progress(100, initial=50, stream=stream, clock=clock)
  bar.update(51, {})
  clock.now = 10.0
  bar.update(61, {})
  assert "step 61/100  1/s  00:39 left" in stream.getvalue()


def test_a_terminal_gets_a_bar_and_notes_stand_on_their_own_lines():
  text = _drive(Terminal(), 5, 0.1)
  assert "100%" in text
  assert "accuracy 1" in text
  shown = [part.strip() for part in text.replace("\r", "\n").split("\n")]
  assert "checkpoint saved" in shown


def test_secondary_processes_are_silent():
  assert _drive(io.StringIO(), 5, 10.0, primary=False) == ""
  assert _drive(Terminal(), 5, 10.0, primary=False) == ""


def test_figures_are_short():
  figures = {"loss": 0.012345, "n": 12, "lr": 1.5e-4, "bad": float("nan")}
  assert format_figures(figures) == "loss 0.0123  n 12  lr 0.00015  bad nan"
