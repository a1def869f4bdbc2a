"""The child that holds an instance, the wire between, and the parent's handle on it."""
