from benchmarks.reward_workers import report


def test_every_figure_is_measured():
  found = report(repeats=1, calls=10, kills=2, pictures=(0, 1000))
  assert found["start_s"] > 0
  assert found["calls_per_s"] > 0
  assert found["replaced_ms"] > 0
  nodes = found["node_ms_by_picture_bytes"]
  assert nodes.keys() == {0, 1000}
  assert all(each > 0 for each in nodes.values())
