"""Everything public of Keras, enumerated from the package: layers, optimizers, losses, metrics."""
