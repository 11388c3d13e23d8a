"""From a trained model to a bundle: merge, ONNX graphs, TensorRT engines, each step proven.

``verify`` and ``engines`` need only a bundle and do not import torch.
"""
