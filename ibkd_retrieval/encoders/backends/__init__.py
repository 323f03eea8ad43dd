"""The backends that run a transformer: torch, ONNX Runtime and OpenVINO. They map tokens to token states."""
