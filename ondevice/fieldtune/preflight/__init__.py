"""What a bundle will need on a device, from its manifest and node tables alone: nothing is run, no model is read.

``dimensions`` settles symbolic sizes, ``runtime_graph`` is the graph as ONNX Runtime runs it, ``buffers`` and ``arena``
follow its tensors through memory, ``weights`` counts what is mapped, packed and copied, ``memory`` adds it all up.
"""
