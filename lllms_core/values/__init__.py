"""Values from plain data: strict structuring, violations with their paths, sizes for people; pure."""
