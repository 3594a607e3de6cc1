"""Reading and writing safely: typed fields, JSON, output and cache folders, locks between processes."""
