"""The stages of a run: what a step asks of the model, its loss, and the loop around it."""
