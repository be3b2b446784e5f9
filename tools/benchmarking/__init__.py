"""Parts of the benchmark tools; inference does not use them."""
