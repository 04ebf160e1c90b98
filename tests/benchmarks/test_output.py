import json

from benchmarks.output import tell


def test_a_result_is_printed_and_written(tmp_path, capsys):
  path = tmp_path / "result.json"
  tell({"mean": 0.5, "view": "∅"}, path)
  printed = capsys.readouterr().out
  assert path.read_text(encoding="utf-8") == printed
  assert json.loads(printed) == {"mean": 0.5, "view": "∅"}


def test_nothing_is_written_where_no_file_is_named(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  tell({"mean": 0.5})
  assert not list(tmp_path.iterdir())
