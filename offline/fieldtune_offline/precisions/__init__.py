"""How the frozen base is stored, trained against and served: one module a precision, and a line in the table."""
