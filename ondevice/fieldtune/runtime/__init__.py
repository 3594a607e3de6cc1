"""ONNX Runtime's sessions: which provider runs them, how they are opened, and adapters in its own form."""
