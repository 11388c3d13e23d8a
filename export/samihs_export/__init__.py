"""From a trained model to a bundle: merge, ONNX graphs, TensorRT engines, each step proven.

``verify`` and ``engines`` work on a bundle alone and import no torch.
"""
