from benchmarks.decoding import report


def test_both_ways_decode_all_pictures():
  found = report(pictures=4, width=96, tokens=16, pairs=3)
  assert found["pictures"] == 4
  assert found["pictures_per_s"]["one"] > 0
  assert found["pictures_per_s"]["threads"] > 0
  ratio = found["ratio"]
  assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
