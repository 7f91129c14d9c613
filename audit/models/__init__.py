"""Models: opening, loading and running them; hooks, generation, scoring, and the matrices of a layer."""
