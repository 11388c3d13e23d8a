"""Training data: readers of real sets and the phantom generator."""
