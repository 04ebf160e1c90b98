"""How verdicts agree with third-party ones, and bear hostile answers."""
