"""What runs in processes of its own: a driver that hangs, or a CUDA error that stays, ends with the process."""
