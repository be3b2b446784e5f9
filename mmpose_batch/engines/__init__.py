"""What runs the network: one file an engine, and what they have in common."""


class EngineError(RuntimeError):
    """An engine that cannot do what is asked. Its message is one line."""


class AnswersDiffer(EngineError):
    """An engine that runs, and answers too differently from PyTorch in fp32."""
