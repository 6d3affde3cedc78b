"""From integer network to cores: connectivity, partition, placement, routes."""
