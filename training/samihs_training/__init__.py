"""Training of SAMIHS: model, data, loss, fitting, evaluation."""
