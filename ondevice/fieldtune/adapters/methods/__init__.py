"""What a method of adapting a model means for its adapters on the device: one module a method."""
