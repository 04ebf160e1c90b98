"""What a clone and an installed copy promise: README, setup.py, launch/."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
NOTEBOOK = ROOT / "launch" / "colab.ipynb"
# Where a distribution's name is not that of what one imports.
DISTRIBUTION = {
  "grain": "grain",
  "orbax": "orbax-checkpoint",
  "PIL": "pillow",
  "ml_collections": "ml-collections",
  "tensorflow_datasets": "tensorflow-datasets",
  "absl": "absl-py",
}
# Imported by dependencies that do not declare them, or by us as text.
INDIRECT = {"jinja2", "importlib-resources", "array-record"}


@pytest.fixture(scope="module")
def metadata() -> dict:
  """What setup.py hands to setuptools."""
  given: dict = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setuptools, "setup", given.update)
    patch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
  return given


def plain(requirement: str) -> str:
  """The normalised name in a requirement."""
  name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
  return name.lower().replace("_", "-")


def imported(folder: Path) -> dict[str, str]:
  """Top-level modules that files import -> a file that does."""
  found: dict[str, str] = {}
  for path in sorted(folder.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module or ""]
      for name in names:
        found.setdefault(name.partition(".")[0], str(path))
  return {
    name: file
    for name, file in found.items()
    if name not in sys.stdlib_module_names
  }


def readme_tools() -> dict:
  return runpy.run_path(str(ROOT / ".ci" / "readme.py"))


# setup.py


def test_every_import_is_declared_and_nothing_else(metadata):
  ours = {"mirl_jax"}
  needed = {
    DISTRIBUTION.get(name, name).lower().replace("_", "-"): file
    for name, file in imported(ROOT / "mirl_jax").items()
    if name not in ours
  }
  declared = {plain(r) for r in metadata["install_requires"]}
  assert {n: f for n, f in needed.items() if n not in declared} == {}
  assert declared - needed.keys() - INDIRECT == set()


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "launch", "configs"])
def test_extras_cover_the_rest_of_the_checkout(metadata, folder):
  extra = "test" if folder == "tests" else "dev"
  declared = {
    plain(requirement)
    for requirement in (
      *metadata["install_requires"],
      *metadata["extras_require"][extra],
    )
  }
  ours = {"mirl_jax", "launch", "configs", "benchmarks", "IPython"}
  for name, file in imported(ROOT / folder).items():
    if name not in ours:
      distribution = DISTRIBUTION.get(name, name).lower().replace("_", "-")
      assert distribution in declared, f"{name}, imported by {file}"


def test_neither_torch_nor_tensorflow_at_run_time(metadata):
  banned = {"torch", "torchvision", "tensorflow"}
  assert not banned & {plain(r) for r in metadata["install_requires"]}
  assert not banned & imported(ROOT / "mirl_jax").keys()
  # A bare requirement of torch pulls gigabytes.
  torch = [r for r in metadata["extras_require"]["test"] if "torch" in r]
  assert torch == ["torch==2.13.0"]


def test_declared_ranges_hold_what_the_tests_run_with(metadata):
  packaging = pytest.importorskip("packaging.requirements")
  for text in metadata["install_requires"]:
    requirement = packaging.Requirement(text)
    version = importlib.metadata.version(requirement.name)
    assert requirement.specifier.contains(version, prereleases=True), text


def test_every_module_and_the_tiny_model_are_in_the_wheel(metadata, tmp_path):
  source = tmp_path / "source"
  ignored = shutil.ignore_patterns("__pycache__", ".jax_cache")
  shutil.copytree(ROOT / "mirl_jax", source / "mirl_jax", ignore=ignored)
  for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source)
  build = "import setuptools.build_meta as b; b.build_wheel('.')"
  subprocess.run(
    [sys.executable, "-c", build], cwd=source, check=True, capture_output=True
  )
  (wheel,) = source.glob("*.whl")
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    (points,) = [n for n in names if n.endswith("entry_points.txt")]
    assert b"mirl-jax = mirl_jax.main:main" in archive.read(points)
    assert any("licenses/LICENSE" in n for n in names)
  wanted = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "mirl_jax").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
  }
  assert {n for n in names if n.startswith("mirl_jax/")} == wanted
  tiny = sum((ROOT / n).stat().st_size for n in wanted if "/tiny/" in n)
  assert 0 < tiny <= 6e6


# README and .ci/run


def test_readme_marks_the_two_commands_and_more():
  found = readme_tools()["blocks"](README)
  marks = [mark for mark, _ in found]
  assert marks.count("default") == 1
  assert marks.count("test") == 1
  assert set(marks) == {"default", "test", "more"}
  for mark, code in found:
    # One line each: what a newcomer pastes.
    if mark != "more":
      assert code.count("\n") == 1
      assert code.startswith("python3.11 -m venv .venv && ")


def test_a_mark_without_code_is_an_error():
  blocks = readme_tools()["blocks"]
  text = "<!-- check: a -->\n```bash\nx\n```\n\n<!-- check: b -->\nwords\n"
  with pytest.raises(ValueError, match="over no code block"):
    blocks(text)
  assert blocks(text.partition("<!-- check: b")[0]) == [("a", "x\n")]


def test_shell_blocks_and_scripts_parse():
  scripts = re.findall(r"^```bash\n(.*?)^```$", README, re.M | re.S)
  assert len(scripts) >= 6
  files = [ROOT / ".ci" / "run", *(ROOT / "launch").glob("*.sh")]
  assert len(files) == 4
  for file in files:
    assert file.stat().st_mode & 0o111, f"{file} is not executable"
    scripts.append(file.read_text("utf-8"))
  for script in scripts:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_files_that_the_readme_names_exist():
  named = {
    *re.findall(r"\]\((?!https?:)([^)#]+)\)", README),
    *re.findall(r"--config=(configs/[\w/]+\.py)", README),
    *re.findall(r"`((?:configs|launch|mirl_jax|benchmarks)/[\w/.]+)`", README),
  }
  assert len(named) > 6
  missing = {name for name in named if not (ROOT / name).exists()}
  assert missing == set()


def test_modules_that_the_readme_runs_exist():
  for module in set(re.findall(r"-m ((?:mirl_jax|launch)\.\w+)", README)):
    assert importlib.util.find_spec(module), module


def test_json_of_the_readme_is_a_row():
  for text in re.findall(r"^```json\n(.*?)^```$", README, re.M | re.S):
    row = json.loads(text)
    assert {"id", "image", "question", "answer"} <= row.keys()


def test_modes_and_fields_of_the_readme_exist():
  from mirl_jax import main
  from mirl_jax.command_line import DEFAULT_CONFIG, fields, load_config

  table = README.partition("| `--mode=` |")[2].partition("\n\n")[0]
  assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == main.MODES.keys()
  known = {*fields(load_config(DEFAULT_CONFIG)), "field"}
  assert set(re.findall(r"--config\.([\w.]+)=", README)) <= known


# The notebook


def code_cells() -> list[str]:
  notebook = json.loads(NOTEBOOK.read_text("utf-8"))
  assert notebook["nbformat"] == 4
  assert len({cell["id"] for cell in notebook["cells"]}) == len(
    notebook["cells"]
  )
  kinds = {cell["cell_type"] for cell in notebook["cells"]}
  assert kinds == {"code", "markdown"}
  code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
  assert all(cell["outputs"] == [] for cell in code)
  return ["".join(cell["source"]) for cell in code]


def test_notebook_is_python_without_magics():
  for cell in code_cells():
    ast.parse(cell)


@pytest.mark.slow
def test_notebook_runs(tmp_path):
  script = tmp_path / "notebook.py"
  script.write_text("\n\n".join(code_cells()), "utf-8")
  run = subprocess.run(
    [sys.executable, str(script)],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  assert "report of" in run.stdout
  assert (tmp_path / "runs/notebook/report.html").exists()
