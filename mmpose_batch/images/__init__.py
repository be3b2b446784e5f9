"""Reading and decoding images as MMPose does, and turning them as displayed."""
