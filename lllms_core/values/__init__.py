"""Values from plain data: strict structuring, violations with their paths, readable sizes; pure."""
