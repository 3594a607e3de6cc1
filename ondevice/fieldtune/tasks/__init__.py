"""What a task reads, encodes, measures and answers: one module a task."""
