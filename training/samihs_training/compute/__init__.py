"""What a run computes on: devices, memory, and several processes."""
