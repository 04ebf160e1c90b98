"""One file per method: the algorithm in its docstring, then its config."""
