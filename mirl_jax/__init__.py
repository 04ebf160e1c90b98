"""Mutual-information-guided reinforcement learning of VLMs in JAX."""
