"""The official training artifacts: from a bundle's eval.onnx, by ONNX Runtime's tool in an environment of its own."""
