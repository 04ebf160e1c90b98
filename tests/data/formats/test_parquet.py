"""Parquet files: rows by number, little memory, several threads."""

from concurrent import futures

import numpy as np
import pyarrow.parquet as pq
import pytest

from mirl_jax.data.formats import parquet
from mirl_jax.data.formats.parquet import Parquet
from mirl_jax.data.open import open_source
from mirl_jax.data.source import BadRow, told
from mirl_jax.testing_data import picture, write_parquet


def rows(count):
  return [
    {"n": i, "images": [{"bytes": picture(i), "path": None}]}
    for i in range(count)
  ]


@pytest.mark.parametrize("group_rows", [1, 4, 100])
def test_rows_come_by_number_in_any_order(tmp_path, group_rows):
  known = rows(23)
  table = Parquet(write_parquet(tmp_path / "x.parquet", known, group_rows))
  assert len(table) == 23
  assert table.columns == ("n", "images")
  for i in np.random.default_rng(0).permutation(23):
    assert table[int(i)] == known[i]
  assert [row["n"] for row in table.scan(["n"])] == list(range(23))
  assert list(table.scan(["n"]))[3] == {"n": 3}
  assert list(table.scan(["images"]))[3] == {"images": known[3]["images"]}


def test_row_groups_are_read_on_demand_and_few_are_kept(tmp_path, monkeypatch):
  read = []
  whole = pq.ParquetFile.read_row_group

  def counted(self, group):
    read.append(group)
    return whole(self, group)

  monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
  path = write_parquet(tmp_path / "x.parquet", rows(20), 5)
  table = Parquet(path)
  assert not read
  assert [table[i]["n"] for i in (7, 8, 9, 6)] == [7, 8, 9, 6]
  assert read == [1]
  monkeypatch.setattr(parquet, "CACHED_BYTES", 1)
  assert [table[i]["n"] for i in (0, 1, 5, 0)] == [0, 1, 5, 0]
  assert read == [1, 0, 1, 0]


def test_large_row_groups_are_told(tmp_path, monkeypatch):
  path = write_parquet(tmp_path / "x.parquet", rows(20), 10)
  assert not Parquet(path).note
  monkeypatch.setattr(parquet, "_LARGE", 100)
  assert not Parquet(path).note  # all of it is kept
  monkeypatch.setattr(parquet, "CACHED_BYTES", 1000)
  assert "mirl_jax.data.records stores rows apart" in Parquet(path).note
  assert "row groups of 0 MiB" in told(open_source(path, columns="question=n"))


def test_threads_may_read_at_once(tmp_path, monkeypatch):
  monkeypatch.setattr(parquet, "CACHED_BYTES", 1)
  known = rows(40)
  table = Parquet(write_parquet(tmp_path / "x.parquet", known, 3))
  order = np.random.default_rng(1).integers(0, 40, 300).tolist()
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(table.__getitem__, order))
  assert found == [known[i] for i in order]


def test_the_digest_follows_the_content(tmp_path):
  one = Parquet(write_parquet(tmp_path / "a.parquet", rows(5)))
  same = Parquet(write_parquet(tmp_path / "b.parquet", rows(5)))
  other = Parquet(write_parquet(tmp_path / "c.parquet", rows(6)))
  assert one.digest == same.digest != other.digest


def test_torn_files_are_named(tmp_path):
  path = write_parquet(tmp_path / "x.parquet", rows(20), 5)
  data = path.read_bytes()
  (tmp_path / "cut.parquet").write_bytes(data[:-50])
  (tmp_path / "none.parquet").write_bytes(b"")
  for name in ("cut", "none"):
    with pytest.raises(ValueError, match=f"{name}.parquet is no readable parq"):
      Parquet(tmp_path / f"{name}.parquet")
  # A page that is torn spares the other row groups.
  torn = bytearray(data)
  torn[4:200] = bytes(196)
  (tmp_path / "torn.parquet").write_bytes(bytes(torn))
  table = Parquet(tmp_path / "torn.parquet")
  with pytest.raises(BadRow, match="row 1: no readable row"):
    table[0]
  assert table[19]["n"] == 19
