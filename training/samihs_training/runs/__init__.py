"""The folder of a run: who owns it, its logs, and its progress bars."""
