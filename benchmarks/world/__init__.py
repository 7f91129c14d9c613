"""A tiny world of invented people, and models of it whose knowledge is known from the way they were made."""
