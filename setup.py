"""How the package is installed; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# Lower bounds are what the tests run with; upper ones are where a next release
# is known or expected to break something.
REQUIRES = [
  "jax>=0.10.2,<0.12",  # newest for Python 3.11, and its successor on 3.12
  "flax>=0.12.8,<0.13",  # the modules of the policy (Linen)
  "optax>=0.2.8,<0.3",  # AdamW, schedules, clipping
  "orbax-checkpoint>=0.12.8,<0.13",  # checkpoints; names move between releases
  "grain>=0.2.18,<0.3",  # data pipelines that resume exactly
  "tensorflow-datasets>=4.9.10,<5",  # builder of the world; no TensorFlow
  "array_record>=0.8",  # the file format of that builder
  "importlib_resources>=6",  # tensorflow-datasets imports, does not declare it
  "transformers>=4.57,<6",  # tokenizers and chat templates; no torch needed
  "tokenizers>=0.22",  # trains the tiny model's byte-level BPE
  "jinja2>=3.1",  # transformers renders chat templates with it
  "safetensors>=0.6",  # weights to and from Hugging Face
  "ml_dtypes>=0.5",  # bfloat16 in those weights
  "numpy>=2,<3",  # everything on the host
  "pillow>=11",  # images
  "pyarrow>=21",  # parquet files of questions
  # Equality of mathematical expressions, in worker processes.
  "math-verify[antlr4_13_2]>=0.9,<0.10",
  "ml-collections>=1.1,<2",  # configurations
  "absl-py>=2.1",  # flags
  "jaxtyping>=0.3.2",  # shapes in annotations
  "tensorboardX>=2.6.2",  # event files; no TensorFlow
  "tqdm>=4.66",  # the progress line
]

_FIGURES = "matplotlib>=3.10"  # of the benchmarks

# Tools are pinned to a minor release: a newer one finds new faults.
EXTRAS = {
  "test": [
    "pytest>=8.4",
    "pytest-xdist>=3.6",  # two workers
    "beartype>=0.22",  # checks the annotations while the tests run
    _FIGURES,
    "scipy>=1.15",  # oracle of the statistics
    "torch==2.13.0",  # oracle of the policy; a bare name pulls gigabytes
    "peft>=0.19,<1",  # reads the adapters back
    "setuptools>=77",  # builds the wheel whose contents are tested
    "tensorboard>=2.20",  # reads the event files back
    "ruff>=0.17.5,<0.18",
    "mypy>=2.4.1,<2.5",
  ],
  "bench": [
    _FIGURES,
    "trl>=1.16,<1.17",  # what a step is measured against; its API moves
    "datasets>=5,<6",  # its questions
  ],
  "tpu": ["jax[tpu]"],
  "cuda": ["jax[cuda12]"],
}
EXTRAS["dev"] = [*EXTRAS["test"], *EXTRAS["bench"]]

setup(
  name="mirl-jax",
  version="0.1.0",
  description=(
    "Reinforcement learning of vision-language models guided by mutual"
    " information, in JAX"
  ),
  long_description=(Path(__file__).parent / "README.md").read_text("utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  packages=find_packages(include=["mirl_jax", "mirl_jax.*"]),
  package_data={"mirl_jax": ["py.typed", "tiny/*"]},
  install_requires=REQUIRES,
  extras_require=EXTRAS,
  entry_points={"console_scripts": ["mirl-jax = mirl_jax.main:main"]},
  classifiers=[
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
  ],
)
