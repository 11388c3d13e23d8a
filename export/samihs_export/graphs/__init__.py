"""SAM as ONNX graphs: layers in the forms that export well, their types, and 8-bit weights."""
