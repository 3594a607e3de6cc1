"""Training backends: what computes gradients and applies them, behind one interface."""
