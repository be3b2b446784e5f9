"""Images: reading and decoding as in MMPose, with orientations as displayed."""
