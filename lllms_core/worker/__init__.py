"""The child that holds an instance, the parent's handle on it, and the wire between them."""
