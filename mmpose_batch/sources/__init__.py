"""Sources: inputs of the inferencer become streams of numbered frames."""
