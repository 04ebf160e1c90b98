import pytest

from mirl_jax.worlds.dials import BROKEN, WARM
from mirl_jax.worlds.items import make_item


@pytest.fixture(scope="session")
def warm():
  return [make_item(11, i, WARM, "train") for i in range(1500)]


@pytest.fixture(scope="session")
def broken():
  return [make_item(12, i, BROKEN, "test") for i in range(1500)]
