"""How raw input becomes tensors: what a bundle says of texts and images."""
