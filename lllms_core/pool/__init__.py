"""All instances of all models, and the queue in front of them."""
