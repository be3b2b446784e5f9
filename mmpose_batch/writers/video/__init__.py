"""Videos with drawings: drawing by OpenCV, encoding and audio by PyAV, which load slowly."""
