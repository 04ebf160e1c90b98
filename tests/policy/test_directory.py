import json
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


@pytest.mark.parametrize("content", ["[]", "3", '"x"'])
def test_json_that_is_no_object_is_named(tmp_path, content):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(ValueError, match=r"config\.json holds no JSON object"):
    dr.load_config(tmp_path)


def test_another_architecture_is_named_with_its_file(tmp_path):
  (tmp_path / "config.json").write_text('{"model_type": "llama"}')
  said = rf"{tmp_path}/config\.json: model_type 'llama' is not supported"
  with pytest.raises(ValueError, match=said):
    dr.load_config(tmp_path)


def test_the_dtype_is_kept_in_step_wherever_it_stands(tmp_path):
  file = tmp_path / "config.json"

  def written(content):
    file.write_text(json.dumps(content))
    dr.write_dtype(tmp_path, "bfloat16")
    assert dr.stored_dtype(tmp_path) == "bfloat16"
    return json.loads(file.read_text())

  assert written({"a": 1}) == {"a": 1, "torch_dtype": "bfloat16"}
  old = {"torch_dtype": "float32", "text_config": {"torch_dtype": "float32"}}
  assert written(old) == {
    "torch_dtype": "bfloat16",
    "text_config": {"torch_dtype": "bfloat16"},
  }
  new = {"dtype": "float16", "vision_config": {"dtype": "float16", "x": {}}}
  assert written(new) == {
    "dtype": "bfloat16",
    "vision_config": {"dtype": "bfloat16", "x": {}},
  }
  file.write_text("{}")
  assert dr.stored_dtype(tmp_path) is None
