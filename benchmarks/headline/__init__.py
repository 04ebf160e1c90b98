"""MIRL against GRPO at equal cost; see __main__."""
