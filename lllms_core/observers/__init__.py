"""What listens to the events of a server: the history of its requests, and with that the log, metrics and traces."""
