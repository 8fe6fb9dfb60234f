"""Pure maths on arrays. What is sequential keeps its state as plain JSON and may be looked at as often as one likes."""
