"""Starting runs: sweeps, and machines other than this one."""
