"""The law: what a wrapped model computes equals what plain Keras computes on one device."""
