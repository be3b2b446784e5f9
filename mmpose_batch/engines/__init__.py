"""What runs the network: one file an engine, and what they have in common."""


class EngineError(RuntimeError):
    """An engine that cannot do what is asked. Its message is one line."""
