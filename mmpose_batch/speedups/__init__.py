"""Faster equals of single steps of MMPose, each applied to one instance where it is known to be."""
