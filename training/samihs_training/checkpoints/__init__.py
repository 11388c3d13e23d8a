"""Checkpoints of bases and adapters: ours, Meta's and the SAMIHS authors'."""
