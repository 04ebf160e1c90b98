import zipfile

import pytest

from mirl_jax.policy import directory as dr
from mirl_jax.policy.processing import load_processor
from mirl_jax.policy.tokenizer import write_tiny_directory


def test_a_directory_inside_a_zip_is_read(tmp_path):
  write_tiny_directory(tmp_path / "tiny", ("How many?",) * 9, 290)
  archive = tmp_path / "package.zip"
  with zipfile.ZipFile(archive, "w") as file:
    for item in (tmp_path / "tiny").iterdir():
      file.write(item, f"tiny/{item.name}")
  packaged = zipfile.Path(archive, "tiny/")
  assert dr.load_config(packaged) == dr.load_config(tmp_path / "tiny")
  assert load_processor(packaged).render("Why?", 0).startswith("<|im_start|>")
  with pytest.raises(ValueError, match="no such model directory"):
    dr.load_config(zipfile.Path(archive, "other"))


def test_end_tokens_come_from_the_generation_config(tmp_path):
  write_tiny_directory(tmp_path, ("How many?",) * 9, 290)
  assert len(dr.load_config(str(tmp_path)).eos_tokens) == 2
  (tmp_path / "generation_config.json").unlink()
  assert len(dr.load_config(str(tmp_path)).eos_tokens) == 1


def test_what_is_missing_or_broken_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"no such model directory: .*nowhere"):
    dr.load_config(tmp_path / "nowhere")
  with pytest.raises(ValueError, match=r"has no config\.json"):
    dr.load_config(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
    dr.load_config(tmp_path)
