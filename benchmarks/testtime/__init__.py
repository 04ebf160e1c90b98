"""Test-time compute at equal generated tokens; see __main__."""
