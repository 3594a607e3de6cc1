"""What each task trains, evaluates and serves: one module a task, and a line in the table."""
