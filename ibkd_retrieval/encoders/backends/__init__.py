"""What runs the transformer: torch, ONNX Runtime or OpenVINO. Tokens go in, their states come out; the rest is ours."""
