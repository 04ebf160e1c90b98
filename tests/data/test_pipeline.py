"""Batches: order, exact position, bad rows."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirl_jax.data.example import Example
from mirl_jax.data.pipeline import TooManyBadRows, batches
from mirl_jax.data.share import OwnRows, Share
from mirl_jax.data.source import BadRow


class Numbers:
  """Examples 0 to n - 1, some of them bad, read with uneven delays."""

  def __init__(self, n, bad=(), delay=0.0):
    self.n, self.bad, self.delay = n, set(bad), delay
    self.read: list[int] = []

  def __len__(self):
    return self.n

  def __getitem__(self, index):
    self.read.append(index)
    if self.delay:
      time.sleep(self.delay * (index % 3))
    if index in self.bad:
      raise BadRow(f"row {index}", "torn")
    return Example(str(index), (), "?", "a")


def ids(batch):
  return [int(example.id) for example in batch]


def take(stream, n):
  return [ids(next(stream)) for _ in range(n)]


def all_ids(stream):
  return [i for batch in stream for i in ids(batch)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_each_epoch_shows_every_row_once(shuffle):
  seen = all_ids(batches(Numbers(10), 3, 1, shuffle, epochs=3))
  epochs = [seen[:10], seen[10:20], seen[20:]]
  assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
  if shuffle:
    assert epochs[0] != epochs[1]
    assert seen == all_ids(batches(Numbers(10), 4, 1, True, epochs=3))
    assert seen != all_ids(batches(Numbers(10), 3, 2, True, epochs=3))
  else:
    assert seen == list(range(10)) * 3


def test_the_last_batch_of_finite_epochs_may_be_short():
  sizes = [len(b) for b in batches(Numbers(10), 4, epochs=1)]
  assert sizes == [4, 4, 2]


def test_the_order_does_not_depend_on_reading_speed_or_threads():
  slow = batches(Numbers(30, delay=0.001), 4, 7, readers=8)
  fast = batches(Numbers(30), 4, 7, readers=1)
  assert take(slow, 12) == take(fast, 12)


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
@pytest.mark.parametrize("bad", [(), (3, 8, 9)])
def test_a_resumed_stream_continues_exactly(stop, bad):
  def stream():
    return batches(Numbers(23, bad), 4, 5, max_bad_share=0.5)

  first = stream()
  take(first, stop)
  state = json.loads(json.dumps(first.get_state()))
  rest = take(first, 6)
  after = first.get_state()
  second = stream()
  take(second, 2)  # wherever it stands
  second.set_state(state)
  assert second.get_state() == state
  assert take(second, 6) == rest
  assert second.get_state() == after
  assert (second.draws, second.bad) == (first.draws, first.bad)


def test_reading_ahead_does_not_move_the_position():
  source = Numbers(100)
  stream = batches(source, 4, shuffle=False)
  take(stream, 1)
  deadline = time.monotonic() + 10
  while len(source.read) <= 4 and time.monotonic() < deadline:
    time.sleep(0.005)
  assert len(source.read) > 4  # it does read ahead …
  state = stream.get_state()
  again = batches(Numbers(100), 4, shuffle=False)
  again.set_state(state)
  assert take(again, 1) == [[4, 5, 6, 7]]  # … and loses nothing


def test_an_interrupted_next_leaves_the_position(monkeypatch):
  stream = batches(Numbers(20, bad=(5,)), 4, shuffle=False)
  take(stream, 1)
  state = stream.get_state()

  def interrupt(bad):
    raise KeyboardInterrupt

  monkeypatch.setattr(stream._quarantine, "add", interrupt)
  with pytest.raises(KeyboardInterrupt):
    next(stream)
  assert stream.get_state() == state


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"seed": 6}, "seed"),
    ({"shuffle": False}, "shuffle"),
    ({"batch_size": 8}, "batch_size"),
    ({"source": Numbers(24)}, "source"),
  ],
)
def test_a_state_of_another_stream_is_refused(change, message):
  base = {"source": Numbers(23), "batch_size": 4, "seed": 5}
  state = batches(**base).get_state()
  with pytest.raises(ValueError, match=message):
    batches(**{**base, **change}).set_state(state)
  longer = batches(**base, epochs=2)
  longer.set_state(state)


def test_bad_rows_are_replaced_counted_and_written_once(tmp_path):
  path = tmp_path / "run" / "quarantine.jsonl"
  stream = batches(
    Numbers(12, bad=(2, 7)),
    5,
    shuffle=False,
    epochs=3,
    quarantine=path,
    max_bad_share=0.5,
  )
  first = ids(next(stream))
  assert first[:2] + first[3:] == [0, 1, 3, 4]
  assert first[2] not in (0, 1, 2, 3, 4)  # another row that the batch lacks
  rest = all_ids(stream)
  assert len(first + rest) == 36
  assert stream.draws - stream.bad == 36
  assert stream.bad >= 6  # a replacement may be bad in its turn
  # Every good row of every epoch comes, whatever replaces the others.
  good = set(range(12)) - {2, 7}
  for epoch in range(3):
    assert good <= set((first + rest)[12 * epoch : 12 * epoch + 12])
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert sorted(lines, key=lambda line: line["row"]) == [
    {"row": "row 2", "reason": "torn"},
    {"row": "row 7", "reason": "torn"},
  ]


def test_quarantine_goes_on_after_a_kill(tmp_path):
  path = tmp_path / "quarantine.jsonl"
  path.write_text('{"row": "row 2", "reason": "torn"}\n{"row": "row 7", "rea')
  stream = batches(
    Numbers(12, bad=(2, 7)), 5, epochs=1, quarantine=path, max_bad_share=0.5
  )
  all_ids(stream)
  lines = [json.loads(line)["row"] for line in path.read_text().splitlines()]
  assert lines == ["row 2", "row 7"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("bad", [(), range(0, 40, 3)])
@pytest.mark.parametrize(
  "parts", [[(0, 1, 2), (3, 4)], [(1, 2, 4), (0, 1), (3,)]]
)
def test_processes_that_share_the_reading_draw_what_one_draws(
  seed, bad, parts, tmp_path
):
  """Each reads its own rows alone; rows of two parts overlap in one case."""

  def stream(source, **options):
    return batches(source, 5, seed, max_bad_share=0.9, **options)

  barrier = threading.Barrier(len(parts))
  said = [b""] * len(parts)
  whole = stream(Numbers(40, bad), quarantine=tmp_path / "alone")
  wanted = take(whole, 12)
  places = {int(draw): n for n, draw in enumerate(whole._order[:40])}

  def process(number):
    def gather(text):
      said[number] = text
      barrier.wait(10)
      told = list(said)
      barrier.wait(10)
      return told

    rows, source = parts[number], Numbers(40, bad)
    share = Share(rows, gather)
    file = tmp_path / str(number)
    own = stream(source, quarantine=file, share=share)
    found = [next(own) for _ in range(5)]
    if not bad:
      own.close()
      assert {places[n] % 5 for n in source.read} == set(rows)
    again = stream(Numbers(40, bad), quarantine=file, share=share)
    again.set_state(json.loads(json.dumps(own.get_state())))
    found += [next(again) for _ in range(7)]
    read = [{i: int(batch[i].id) for i in rows} for batch in found]
    assert [len(batch) for batch in found] == [5] * 12
    return read, again.get_state()

  with ThreadPoolExecutor(len(parts)) as pool:
    done = list(pool.map(process, range(len(parts))))
  for number, (read, state) in enumerate(done):
    for got, batch in zip(read, wanted, strict=True):
      assert got == {i: batch[i] for i in parts[number]}
    assert state == whole.get_state()
  if bad:
    alone = (tmp_path / "alone").read_text()
    assert (tmp_path / "0").read_text() == alone != ""


def test_a_row_that_another_process_read_is_no_row_here():
  batch = OwnRows({1: Numbers(9)[4], 3: Numbers(9)[5]}, 4)
  assert len(batch) == 4
  assert batch[1].id == batch[-3].id == "4"
  assert batch.ids == ["4", "5"]
  assert batch[2:][1].id == "5"
  assert len(batch[2:]) == 2
  with pytest.raises(LookupError, match="row 2 of the batch"):
    batch[2]
  with pytest.raises(LookupError, match="row 0 of the batch"):
    list(batch)
  with pytest.raises(IndexError):
    batch[4]


def test_too_many_bad_rows_stop_the_run():
  many = range(0, 200, 3)
  with pytest.raises(TooManyBadRows, match="allowed share of 0"):
    all_ids(batches(Numbers(200, many), 4, epochs=2))
  enough = batches(Numbers(200, many), 4, epochs=2, max_bad_share=0.5)
  assert len(all_ids(enough)) == 2 * 200
  assert not set(all_ids(enough)) & set(many)


def test_a_few_early_bad_rows_do_not_stop_it_but_a_short_source_is_judged():
  early = batches(Numbers(200, range(5)), 4, shuffle=False)
  assert min(take(early, 1)[0]) >= 5
  short = batches(Numbers(6, (1,)), 2, epochs=1)
  with pytest.raises(TooManyBadRows, match="of [78] rows drawn are bad"):
    all_ids(short)
  assert short.draws - short.bad == 6


def test_a_batch_as_long_as_the_source_is_filled_from_it():
  filled = batches(Numbers(3, (1,)), 5, max_bad_share=0.9, shuffle=False)
  for batch in take(filled, 4):
    assert len(batch) == 5
    assert set(batch) == {0, 2}


def test_a_source_without_a_good_row_ends_even_if_all_may_be_bad():
  with pytest.raises(TooManyBadRows, match="all of 7 rows"):
    next(batches(Numbers(7, range(7)), 2, max_bad_share=1.0))


def test_other_errors_of_a_source_come_out():
  class Broken(Numbers):
    def __getitem__(self, index):
      raise RuntimeError("disk on fire")

  with pytest.raises(RuntimeError, match="disk on fire"):
    next(batches(Broken(5), 2))


def test_a_list_is_a_source_and_close_ends_the_threads():
  rows = [Example(str(i), (), "?", "a") for i in range(5)]
  before = threading.active_count()
  stream = batches(rows, 2, shuffle=False)
  assert take(stream, 3) == [[0, 1], [2, 3], [4, 0]]
  stream.close()
  deadline = time.monotonic() + 10
  while threading.active_count() > before and time.monotonic() < deadline:
    time.sleep(0.01)
  assert threading.active_count() <= before


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"source": []}, "empty"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"epochs": 0}, "epochs=0"),
    ({"seed": -1}, "seed=-1"),
    ({"max_bad_share": 1.1}, "max_bad_share=1.1"),
    ({"readers": 0}, "readers=0"),
  ],
)
def test_bad_arguments_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    batches(**{"source": Numbers(3), "batch_size": 2, **options})
