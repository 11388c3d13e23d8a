"""The model: SAM with a pyramid, from Hounsfield units and prompts to mask logits.

``sam.py`` defines its sizes and assembles its parts, ``model.py`` runs it. ``methods`` adapts it,
training and evaluation use it, and the export writes it as graphs.
"""
