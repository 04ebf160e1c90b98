"""Matplotlib that draws into files.

A figure's module imports it first thing: a benchmark that cannot draw in the
end says so before it begins.
"""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

__all__ = ["plt"]
