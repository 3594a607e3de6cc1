"""What a method of adapting attaches to a model, and what each of its tensors is: one module a method."""
