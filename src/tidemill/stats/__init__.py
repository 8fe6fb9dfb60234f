"""Pure maths on arrays: metrics, intervals, sequential tests."""
