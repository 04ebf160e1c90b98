"""How a step scales over TPU slices."""
