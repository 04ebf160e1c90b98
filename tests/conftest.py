"""One platform and one compile cache for every test and its subprocesses."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

_CACHE = Path(__file__).parents[1] / ".jax_cache"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# The same programs, with less of LLVM: tests compile far more than they run.
# The older emitters of loops halve what is left; a flag that XLA does not know
# ends the process, hence the version.
_FLAGS = ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))
# Traced programs are a large heap that stays: fewer looks at all of it.
gc.set_threshold(50_000, 20, 100)

import jax  # noqa: E402

# A plugin may have imported jax before the variables were set.
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update(
  "jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"]
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
