"""ONNX: a graph written from the operations of the network, and run by onnxruntime."""
