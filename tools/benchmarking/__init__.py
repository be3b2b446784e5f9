"""What the benchmark tools are made of; no part of the way of an image."""
