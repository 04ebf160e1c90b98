import pytest
from ml_collections import ConfigDict

from mirl_jax import command_line, main
from mirl_jax.command_line import fields, override, parse, split
from mirl_jax.runs.config_files import write_config

MODES = ("train", "eval")
ALL = tuple(main.MODES)


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "some.py"
  path.write_text(
    "from ml_collections import ConfigDict\n"
    "def get_config(arg='4'):\n"
    "  return ConfigDict(dict(n=int(arg), a=dict(x=1.0, on=False, t=(1, 2))))\n"
  )
  return path


@pytest.mark.parametrize("turn", range(4))
def test_flags_stand_in_any_order(file, turn):
  words = [
    "--config.a.x=3",
    f"--config={file}:9",
    "--mode=eval",
    "--workdir=w",
  ]
  command = parse(words[turn:] + words[:turn], MODES)
  assert command.config.to_dict() == {
    "n": 9,
    "a": {"x": 3.0, "on": False, "t": (1, 2)},
  }
  assert (command.mode, command.workdir) == ("eval", "w")
  assert command.config.is_locked


def test_values_may_stand_apart_and_booleans_alone(file):
  argv = ["--config", str(file), "--config.a.x", "-2", "--config.a.on"]
  command = parse([*argv, "--config.a.t=(5,)", "--mode", "eval"], MODES)
  assert command.config.a.to_dict() == {"x": -2.0, "on": True, "t": (5,)}
  on = parse([f"--config={file}", "--config.a.on=true"], MODES)
  assert on.config.a.on is True
  off = parse([f"--config={file}", "--noconfig.a.on"], MODES)
  assert off.config.a.on is False


def test_the_last_of_two_values_counts(file):
  argv = [f"--config={file}", "--config.n=1", "--config.n=2"]
  assert parse(argv, MODES).config.n == 2
  for last in ((5,), ()):
    tuples = ["--config.a.t=(3, 4)", f"--config.a.t={last}"]
    assert parse([*argv, *tuples], MODES).config.a.t == last


def test_without_a_file_the_embedded_default_runs():
  command = parse([], MODES)
  assert command.config.method == "mirl"
  assert (command.mode, command.workdir) == ("train", "runs/default")
  assert not command.debug
  assert command.help == ""


@pytest.mark.parametrize("mode", command_line.OF_A_RUN)
def test_a_run_is_looked_at_with_its_own_config(tmp_path, file, mode):
  flags = [f"--workdir={tmp_path}", f"--mode={mode}"]
  default = parse(flags, ALL).config
  own = parse(["--config=configs/grpo.py:3", "--config.seed=9"], MODES).config
  write_config(tmp_path, own)
  assert parse(flags, ALL).config.to_dict() == own.to_dict()
  other = parse([*flags, "--config.seed=4"], ALL).config
  assert other.seed == 4
  assert other.is_locked
  assert other.program.to_dict() == own.program.to_dict()
  # A file that is named goes first, and training starts from the flags.
  named = parse([*flags, f"--config={file}"], ALL).config
  assert set(named) == {"n", "a"}
  train = parse([flags[0]], ALL).config
  assert train.to_dict() == default.to_dict()


@pytest.mark.parametrize(
  ("content", "said"),
  [
    ("{", "damaged"),
    ('{"model_type": "llama"}', "this is no config of a run"),
    ('{"method": "mirl", "policy": {"pth": ""}, "train": {}}', "policy.pth"),
    ('{"method": "mirl", "policy": {}, "train": {"steps": "x"}}', "x"),
    ('{"method": "mirl", "policy": 3, "train": {}}', "type"),
  ],
)
def test_a_bad_config_of_a_run_is_named(tmp_path, content, said):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(ValueError, match=said) as caught:
    parse([f"--workdir={tmp_path}", "--mode=eval"], ALL)
  assert str(tmp_path / "config.json") in str(caught.value)
  assert "\n" not in str(caught.value)


def test_only_an_export_has_an_out():
  assert parse(["--mode=export", "--out=x"], ALL).out == "x"
  with pytest.raises(ValueError, match="--out=x goes with --mode=export only"):
    parse(["--mode=eval", "--out=x"], ALL)


def test_overrides_are_told_from_flags():
  assert split(["--config=a", "--config.x", "1", "--mode", "eval"]) == (
    ["--config=a", "--mode", "eval"],
    ["--config.x=1"],
  )


def test_every_field_of_the_default_takes_its_own_value_back():
  """The flag parser knows the type of every field, lists included."""
  config = parse([], MODES).config
  given = []
  for name in fields(config):
    value = config
    for part in name.split("."):
      value = value[part]
    if name != "method" and not isinstance(value, ConfigDict):
      given.append(f"--config.{name}={value}")
  assert override(parse([], MODES).config, given).to_dict() == config.to_dict()


@pytest.mark.parametrize(
  ("content", "said"),
  [
    ("def get_config(): return 3", "gave a int"),
    ("def get_config(): return undefined", "NameError: name 'undefined'"),
    ("x = ", "SyntaxError"),
    ("x = 1", "KeyError: 'get_config'"),
  ],
)
def test_a_bad_config_file_is_named(tmp_path, content, said):
  path = tmp_path / "bad.py"
  path.write_text(content)
  with pytest.raises(ValueError, match=said) as caught:
    command_line.load_config(str(path))
  assert "bad.py" in str(caught.value)


def test_an_argument_that_a_file_does_not_take_is_refused(tmp_path):
  path = tmp_path / "none.py"
  path.write_text("def get_config(): return 3")
  with pytest.raises(ValueError, match="TypeError"):
    command_line.load_config(f"{path}:8")
