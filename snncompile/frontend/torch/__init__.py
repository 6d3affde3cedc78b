"""PyTorch: checkpoints, tracing, and what the layers of each framework mean."""
