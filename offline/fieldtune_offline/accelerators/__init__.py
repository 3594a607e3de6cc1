"""What a bundle holds for accelerators: the frozen prefix quantized for each, and what that cost."""
