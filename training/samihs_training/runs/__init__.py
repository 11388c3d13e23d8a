"""The folder of a run: its ownership, its logs, and its progress bars."""
