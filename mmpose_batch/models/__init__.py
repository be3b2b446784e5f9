"""From a name or config to a model with weights, and what is wrong with either."""
