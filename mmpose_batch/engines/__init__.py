"""What runs the network: one file per engine, and what they have in common."""
