"""Sources: convert the inputs of the inferencer to streams of numbered frames."""
