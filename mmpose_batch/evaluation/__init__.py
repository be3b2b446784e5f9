"""COCO annotations and box files, and AP by the metric of the config."""
