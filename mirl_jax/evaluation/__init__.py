"""Evaluation on sets of questions, kept on disk item by item."""
