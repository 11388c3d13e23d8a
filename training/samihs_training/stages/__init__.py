"""The stages of a run: the prompts and the loss of a step, and the loop around it."""
