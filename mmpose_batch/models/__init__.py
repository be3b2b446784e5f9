"""Models: finding configs and weights, checking them, and building the model."""
