"""What the model is: SAM with a pyramid, from Hounsfield units and prompts to mask logits.

``sam.py`` has its sizes and puts its parts together, ``model.py`` runs it. ``methods`` adapts it,
training and evaluation ask it, and the export writes it as graphs.
"""
